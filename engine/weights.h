// The weights of one loaded model in the backend's packed form: its matrices in every
// resident format, everything else once. Immutable after Load.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/checkpoint.h"
#include "engine/draft_head_weights.h"
#include "engine/exit_adapters.h"
#include "engine/model_config.h"
#include "engine/weight_by_format.h"
#include "kernels/ops.h"

namespace skim {

// Small float vectors (norms, biases) live in backend memory; null where a model has none.
struct LayerWeights {
  std::unique_ptr<Buffer> input_norm;         // [hidden]
  WeightByFormat qkv;                         // [qkv_width, hidden]: q, k, v stacked
  std::unique_ptr<Buffer> qkv_bias;           // [qkv_width]
  std::unique_ptr<Buffer> q_norm, k_norm;     // [head_dim]
  WeightByFormat output;                      // [hidden, q_width]
  std::unique_ptr<Buffer> output_bias;        // [hidden]
  std::unique_ptr<Buffer> post_norm;          // [hidden]
  WeightByFormat gate_up;                     // [2 * intermediate, hidden], kGateUp
  std::unique_ptr<Buffer> gate_up_bias;       // [2 * intermediate]
  WeightByFormat down;                        // [hidden, intermediate]
  std::unique_ptr<Buffer> down_bias;          // [hidden]
};

// The format of the LM head that rows of `format` use. The matrix that decides between tokens
// is worth its bits: fp8 and int4 take the int8 one, which is nearer to bf16 than they are.
constexpr WeightFormat HeadFormat(WeightFormat format) {
  return format == WeightFormat::kBf16 ? WeightFormat::kBf16 : WeightFormat::kInt8;
}

struct Weights {
  std::vector<WeightFormat> formats;  // resident; the first is the default
  std::vector<LayerWeights> layers;
  std::unique_ptr<Buffer> final_norm;  // [hidden]
  WeightByFormat head;                 // [vocab, hidden], in HeadFormat
  std::unique_ptr<PackedWeight> embedding;  // [vocab, hidden], bf16; null if a head serves as it
  const PackedWeight* embedding_table = nullptr;  // `embedding` or that head
  uint64_t parameters = 0;  // distinct ones: a tied head counts once, whatever the formats
  // Resident in the backend. A head that formats share belongs to int8 if that is resident,
  // else to the first of them.
  std::array<uint64_t, kWeightFormats> format_bytes = {};
  std::unique_ptr<DraftHeadWeights> draft_head;  // null: the model has none
  ExitAdapters exit_adapters;
  uint64_t common_bytes = 0;  // embedding, norms, biases

  bool Has(WeightFormat format) const {
    return std::ranges::find(formats, format) != formats.end();
  }

  // Of one layer's matrices in a resident format, the mean.
  uint64_t LayerBytes(WeightFormat format) const;

  // Makes every format in `formats` (at least one, each once) from the checkpoint, tensor by
  // tensor, so that at no time more than one tensor is held beside what stays. Of a checkpoint
  // that comes quantised, `formats` must be its own; what it keeps in floating point, its
  // rows take in bf16.
  // `progress(done, total)` in bytes as stored. Errors name the tensor.
  static absl::StatusOr<Weights> Load(const ModelConfig& config, const Checkpoint& checkpoint,
                                      std::span<const WeightFormat> formats, Ops* ops,
                                      const std::function<void(uint64_t, uint64_t)>& progress);
};

inline const float* Floats(const std::unique_ptr<Buffer>& buffer) {
  return buffer ? buffer->As<float>() : nullptr;
}

}  // namespace skim
