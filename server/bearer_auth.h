// Bearer tokens: a call must carry `authorization: Bearer <token>` with one of them.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "grpcpp/server_context.h"

namespace skim {

class BearerAuth {
 public:
  // No tokens: every call is let in.
  explicit BearerAuth(std::vector<std::string> tokens) : tokens_(std::move(tokens)) {}

  // One token a line; empty lines and lines that start with '#' are skipped. A file
  // without a token is an error: it must not open the server to all.
  static absl::StatusOr<BearerAuth> FromFile(const std::string& path);

  // UNAUTHENTICATED unless a token fits. Takes the same time whichever fits or nearly fits.
  absl::Status Check(const grpc::CallbackServerContext& context) const;

 private:
  bool Knows(std::string_view token) const;

  std::vector<std::string> tokens_;
};

}  // namespace skim
