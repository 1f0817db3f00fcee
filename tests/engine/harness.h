// A loaded model with the simplest possible scheduler around it: the test says which rows
// run in which step and sees the logits of every one of them.
#pragma once

#include <map>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/checkpoint.h"
#include "engine/executor.h"
#include "engine/model_config.h"
#include "engine/predictors.h"
#include "engine/weights.h"
#include "kernels/backend.h"

namespace skim {

struct HarnessOptions {
  std::string backend = "cpu";
  std::string isa = "auto";
  int threads = 1;
  int32_t page_tokens = 32;
  int32_t kv_pages = 1024;
  KvFormat kv_format = KvFormat::kBf16;
  int32_t max_rows = 512;
  std::vector<int32_t> boundaries = {};
  std::vector<WeightFormat> formats = {WeightFormat::kBf16};  // resident
  ScoreHeads score_heads = {};
  std::vector<Scouts> scouts = {};
  std::string draft_model = {};  // a directory; empty: none
  WeightFormat draft_format = WeightFormat::kInt8;
  int32_t pending_draws = 0;
  std::string cuda_gemm = "own";
  bool cuda_graphs = true;
};

struct HarnessSequence {
  SeqId id = 0;
  std::vector<TokenId> tokens;  // prompt, then what was sampled
  int32_t prompt_tokens = 0;
  int32_t computed = 0;
  SamplingParams sampling;
  WeightFormat format = WeightFormat::kBf16;
  std::vector<std::vector<PageId>> pages;  // per segment
  std::vector<PageId> hidden_pages;
};

class EngineHarness {
 public:
  static absl::StatusOr<std::unique_ptr<EngineHarness>> Load(const std::string& directory,
                                                             const HarnessOptions& options);

  HarnessSequence NewSequence(std::vector<TokenId> prompt);
  // One step: each sequence computes its next `rows` tokens; one that reaches its end draws
  // a token (greedy by default) and appends it.
  struct Work {
    HarnessSequence* sequence;
    int32_t rows;
  };
  absl::Status Step(const std::vector<Work>& work, StepResult* result = nullptr);
  // Prefill in chunks, then `decode` steps alone.
  absl::Status Generate(HarnessSequence* sequence, int32_t chunk, int32_t decode);
  // Gives the pages back (and to whoever comes next) and starts over: preemption.
  void Preempt(HarnessSequence* sequence);
  // `to` sees the first `blocks` blocks of `from` as its own computed prefix.
  void SharePrefix(const HarnessSequence& from, int32_t blocks, HarnessSequence* to);
  // For plans of a test's own making: the pages for `positions` positions, and the plan entry.
  void ReservePages(HarnessSequence* sequence, int32_t positions);
  void ReserveHidden(HarnessSequence* sequence, int32_t positions);
  PlanSequence Entry(const HarnessSequence& sequence, int32_t row_begin, int32_t row_count) const;

  // Logits after `position` of sequence `id`, as last computed.
  const std::vector<float>& Logits(SeqId id, int32_t position) const {
    return logits_.at({id, position});
  }
  bool HasLogits(SeqId id, int32_t position) const { return logits_.contains({id, position}); }

  const ModelConfig& config() const { return config_; }
  Executor& executor() { return *executor_; }

 private:
  ModelConfig config_;
  std::unique_ptr<Ops> ops_;
  Weights weights_;
  Predictors predictors_;
  ModelConfig draft_config_;
  Weights draft_weights_;
  std::unique_ptr<Executor> executor_;
  std::vector<PageId> free_pages_;
  std::map<std::pair<SeqId, int32_t>, std::vector<float>> logits_;
  SeqId next_id_ = 1;
  std::mt19937 rng_{1};
};

}  // namespace skim
