// The weights of one loaded model in the backend's packed form. Immutable after Load.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/checkpoint.h"
#include "engine/model_config.h"
#include "kernels/ops.h"

namespace skim {

// Small float vectors (norms, biases) live in backend memory; null where a model has none.
struct LayerWeights {
  std::unique_ptr<Buffer> input_norm;         // [hidden]
  std::unique_ptr<PackedWeight> qkv;          // [qkv_width, hidden]: q, k, v stacked
  std::unique_ptr<Buffer> qkv_bias;           // [qkv_width]
  std::unique_ptr<Buffer> q_norm, k_norm;     // [head_dim]
  std::unique_ptr<PackedWeight> output;       // [hidden, q_width]
  std::unique_ptr<Buffer> output_bias;        // [hidden]
  std::unique_ptr<Buffer> post_norm;          // [hidden]
  std::unique_ptr<PackedWeight> gate_up;      // [2 * intermediate, hidden], kGateUp
  std::unique_ptr<Buffer> gate_up_bias;       // [2 * intermediate]
  std::unique_ptr<PackedWeight> down;         // [hidden, intermediate]
  std::unique_ptr<Buffer> down_bias;          // [hidden]
};

struct Weights {
  std::unique_ptr<PackedWeight> embedding;  // [vocab, hidden]; null if the head serves as it
  std::vector<LayerWeights> layers;
  std::unique_ptr<Buffer> final_norm;  // [hidden]
  std::unique_ptr<PackedWeight> head;  // [vocab, hidden]
  uint64_t parameters = 0;             // distinct ones: a tied head counts once
  uint64_t bytes = 0;                  // resident in the backend

  const PackedWeight& embedding_table() const { return embedding ? *embedding : *head; }

  // `progress(done, total)` in bytes as stored. Errors name the tensor.
  static absl::StatusOr<Weights> Load(const ModelConfig& config, const Checkpoint& checkpoint,
                                      Ops* ops,
                                      const std::function<void(uint64_t, uint64_t)>& progress);
};

inline const float* Floats(const std::unique_ptr<Buffer>& buffer) {
  return buffer ? buffer->As<float>() : nullptr;
}

}  // namespace skim
