// "HOST:PORT" as flags give it: "127.0.0.1:50051", "[::1]:0", "localhost:9090".
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"

namespace skim {

struct ListenAddress {
  std::string host;   // IPv6 in its brackets
  uint16_t port = 0;  // 0 = any free one

  std::string ToString() const { return host + ":" + std::to_string(port); }
};

absl::StatusOr<ListenAddress> ParseListenAddress(const std::string& text);

}  // namespace skim
