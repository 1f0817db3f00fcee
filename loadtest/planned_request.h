// One request of a load test and what the client means to do with its stream.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>

#include "base/types.h"
#include "skim/v1/inference.pb.h"

namespace skim {

enum class Behaviour {
  kNormal,
  kCancel,      // goes away after cancel_after_tokens, or after cancel_after
  kSlowReader,  // waits read_delay before taking the next message
  kMalformed,   // must be refused before it costs anything
};

struct PlannedRequest {
  v1::GenerateRequest request;
  Behaviour behaviour = Behaviour::kNormal;
  uint32_t cancel_after_tokens = 0;  // 0 = after this time, whatever has arrived:
  Micros cancel_after = 0;
  Micros read_delay = 0;
  size_t malformed_kind = 0;  // which way of BreakRequest
  // Asked after every message, on a gRPC thread, with the number of tokens so far; false: the
  // client goes away. Must not block for long: the stream is not read meanwhile.
  std::function<bool(size_t tokens)> stays;
};

}  // namespace skim
