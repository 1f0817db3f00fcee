// Makes the requests of a load test, one after the other, the same for the same seed.
#pragma once

#include <cstdint>
#include <random>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "base/types.h"
#include "loadtest/length_distribution.h"
#include "loadtest/planned_request.h"

namespace skim {

struct WorkloadOptions {
  LengthDistribution prompt_tokens;
  LengthDistribution output_tokens;
  int64_t shared_prefix_tokens = 0;  // the same first tokens for all, to meet the prefix cache
  double cancel_share = 0;           // of all requests, as the two below; their sum is <= 1
  double slow_share = 0;
  double malformed_share = 0;
  Micros read_delay = 200'000;  // of a slow reader, before each message
  float temperature = 0;
  uint64_t seed = 1;
  uint32_t vocabulary = 0;   // of the model
  uint32_t max_context = 0;  // of the model, tokens
  // Prompts are slices of this text; if empty, random ids from the vocabulary.
  std::vector<uint32_t> text_ids;
  // Asked for in turn; empty = the server's default.
  std::vector<v1::WeightFormat> weights;
  std::string prefill;  // profile by which prompts are pruned; empty: exact
  v1::Speculation speculation;
};

class Workload {
 public:
  // Errors name the option.
  static absl::StatusOr<Workload> Make(WorkloadOptions options);

  // Output lengths are exact: end tokens are ignored, and prompt and output fit the context.
  PlannedRequest Next();

 private:
  explicit Workload(WorkloadOptions options);
  void FillPrompt(int64_t length, v1::TokenIds* prompt);
  Behaviour DrawBehaviour();

  WorkloadOptions options_;
  std::mt19937_64 random_;
  std::vector<uint32_t> shared_prefix_;
  uint64_t next_ = 0;
};

}  // namespace skim
