// One sequence that a client asked for, immutable after admission. A call with n choices
// becomes n requests that share `group`.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "base/types.h"
#include "engine/sampling_params.h"
#include "kernels/weight.h"
#include "scheduler/prefill_policy.h"
#include "scheduler/speculation.h"

namespace skim {

struct Request {
  SeqId id = 0;                 // unique in the process, given by the submitter
  std::vector<TokenId> prompt;  // at least one id, all in the vocabulary
  SamplingParams sampling;
  WeightFormat weight_format = WeightFormat::kBf16;  // resident
  int32_t priority = 0;         // higher runs first
  std::string tenant;           // fair share is kept between tenants of one priority
  std::string cache_salt;       // prefix cache is shared only within one salt
  Micros deadline = kNever;     // on the loop's clock
  // Requests with the same non-zero group and the same prompt: those after the first wait
  // for its prefill and then take its pages from the prefix cache.
  uint64_t group = 0;
  PrefillPolicy prefill;
  SpeculationPolicy speculation;
};

// What the prefill of a request came to.
enum class PrefillMode : uint8_t {
  kExact,        // as asked
  kExactShort,   // pruning was asked for, but there was too little to gain
  kLazy,         // pruned
};

struct PrefillReport {
  PrefillMode mode = PrefillMode::kExact;
  bool asked = false;  // for pruning
  // For a pruned prompt:
  DecodeMode decode = DecodeMode::kStatic;
  std::vector<int32_t> segment_tokens;  // prompt tokens computed per segment of the model
  int32_t kept_tokens = 0;              // of the prompt, through all layers before the first token
  int32_t predicted_tokens = 0;         // of the prompt, seen through predicted K/V above their cut
  int32_t revived_tokens = 0;           // counted once per cut they passed
  int32_t hidden_pages = 0;             // the most that were held after the prefill
  bool hidden_dropped = false;          // for lack of memory: from then on nothing was revived
  int64_t token_layers_saved = 0;       // of prompt tokens x layers
};

enum class FinishReason : uint8_t {
  kStopToken,   // a stop token was drawn; it is the last token of the output
  kLength,      // max_tokens, or the context is full
  kTimeLimit,   // the deadline passed
  kCancelled,   // the consumer cancelled
  kError,       // see Finish::status
};

struct Finish {
  FinishReason reason = FinishReason::kError;
  absl::Status status;            // OK unless kError
  int32_t prompt_tokens = 0;
  int32_t cached_tokens = 0;      // of the prompt, taken from the prefix cache
  int32_t generated_tokens = 0;
  int32_t preemptions = 0;
  WeightFormat weight_format = WeightFormat::kBf16;
  PrefillReport prefill;
  SpeculationReport speculation = {};
  // On the loop's clock; kNever for what did not happen.
  Micros submitted = kNever;
  Micros scheduled = kNever;      // first row in a step
  Micros first_token = kNever;
  Micros finished = kNever;
};

}  // namespace skim
