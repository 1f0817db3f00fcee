// Loads a model directory and owns everything that runs it: backend, weights, KV bytes.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "base/types.h"
#include "engine/lazy_config.h"
#include "engine/step_executor.h"
#include "kernels/backend.h"
#include "kernels/kv_layout.h"
#include "kernels/weight.h"

namespace skim {

struct EngineOptions {
  std::string model_dir;  // Hugging Face layout
  // A smaller model with the same vocabulary, to draft; empty = none. Its matrices are int8, or
  // what its checkpoint is quantised to.
  std::string draft_model_dir;
  BackendOptions backend;
  // Resident formats of the matrices, each once; the first is the default. Empty = the
  // checkpoint's own: bf16, or what it is quantised to, which then is the only one it can have.
  std::vector<WeightFormat> weights;
  int64_t kv_cache_bytes = 0;  // 0 = a quarter of the free memory, or three quarters of what the
                               // weights leave of a device's; at most what is useful
  KvFormat kv_format = KvFormat::kBf16;
  int32_t max_context = 0;  // 0 = the model's own; never more than that
  int32_t max_rows_per_step = 512;
  int32_t max_revival_rows = 256;
  int32_t max_running = 64;
  // Layers at which prompts can be pruned; see LoadLazyConfig.
  std::optional<std::vector<int32_t>> lazy_boundaries;
};

struct FormatInfo {
  WeightFormat format = WeightFormat::kBf16;
  uint64_t bytes = 0;  // what this format alone takes, resident
  // What a step reads of it, however many rows it has: of one layer's matrices (the mean), and of
  // the LM head.
  uint64_t layer_bytes = 0;
  uint64_t head_bytes = 0;
};

struct ModelInfo {
  std::string architecture;  // config.json model_type
  uint64_t parameters = 0;
  int32_t layers = 0;
  int32_t hidden_size = 0;
  int32_t kv_size = 0;      // numbers of a token's key in a layer, and of its value
  int32_t vocabulary = 0;   // rows of the LM head
  int32_t max_context = 0;  // tokens
  std::vector<TokenId> eos_tokens;
  std::string backend;                 // Ops::Description()
  std::vector<FormatInfo> weights;     // resident; the first is the default
  uint64_t common_weight_bytes = 0;    // resident: embedding, norms, biases, predictors
  uint64_t draft_head_bytes = 0;       // resident; 0: the model has no draft head
  std::vector<int32_t> adapted_exits;  // exits whose drafts go through an adapter, ascending
  uint64_t exit_adapter_bytes = 0;     // resident, of all of them
  // Resident, and what a step of it reads of its matrices; 0: there is no draft model.
  uint64_t draft_model_bytes = 0;
  uint64_t draft_model_step_bytes = 0;
  uint64_t weight_bytes = 0;    // resident: all of the above
  uint64_t kv_cache_bytes = 0;  // resident
  int64_t kv_cache_tokens = 0;  // that the KV cache holds, in whole blocks
  KvFormat kv_format = KvFormat::kBf16;
  uint64_t kv_page_bytes = 0;
  LazyConfig lazy;
  // generation_config.json, where given; NaN / negative where not.
  float default_temperature = -1;
  float default_top_p = -1;
  int32_t default_top_k = -1;
};

class Engine {
 public:
  // `progress(done, total)` in bytes of weights, from the calling thread. Errors name the
  // file and the field. NOT_FOUND, INVALID_ARGUMENT (broken file), UNIMPLEMENTED (a model
  // feature this engine does not have), RESOURCE_EXHAUSTED (does not fit).
  static absl::StatusOr<std::unique_ptr<Engine>> Load(
      const EngineOptions& options, const std::function<void(uint64_t, uint64_t)>& progress);
  ~Engine();

  const ModelInfo& model() const;
  StepExecutor& executor();  // serving loop's thread only

 private:
  struct Impl;
  explicit Engine(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace skim
