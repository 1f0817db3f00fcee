// How one request wants its tokens chosen. Validated at the RPC border; everything
// below may rely on the ranges stated here.
#pragma once

#include <cstdint>
#include <vector>

#include "base/types.h"
#include "kernels/sampling.h"

namespace skim {

struct SamplingParams {
  float temperature = 1;         // finite, >= 0; 0 = greedy
  int32_t top_k = 0;             // >= 0; 0 = off
  float top_p = 1;               // (0, 1]
  float min_p = 0;               // [0, 1]
  float repetition_penalty = 1;  // finite, > 0
  float frequency_penalty = 0;   // [-2, 2]
  float presence_penalty = 0;    // [-2, 2]
  std::vector<LogitBias> bias;   // ids in the vocabulary, each once, finite
  uint64_t seed = 0;             // always set (drawn by the server if the client gave none)

  int32_t max_tokens = 0;                // > 0
  int32_t min_tokens = 0;                // [0, max_tokens]: stop tokens are banned before that
  std::vector<TokenId> stop_tokens;      // end generation, the request's and the model's EOS
  std::vector<TokenId> forced;           // the first tokens, not drawn; <= max_tokens, none a stop token
  int32_t top_logprobs = -1;             // -1 none, 0 chosen only, k: chosen and the best k
  bool prompt_logprobs = false;          // report the same for the prompt

  bool HasPenalties() const {
    return repetition_penalty != 1 || frequency_penalty != 0 || presence_penalty != 0;
  }
};

}  // namespace skim
