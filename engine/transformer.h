// The one forward function of every decoder-only Llama-family model: rows enter and leave
// the stack at layers, everything else (prefill chunks, decode, later pruned, revived,
// draft and verify rows) is a choice of rows and intervals.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/model_config.h"
#include "engine/predictors.h"
#include "engine/segments.h"
#include "engine/step_layout.h"
#include "engine/token_pruner.h"
#include "engine/weights.h"
#include "kernels/kv_layout.h"
#include "kernels/ops.h"

namespace skim {

// Memory that outlives a step, borrowed by the transformer.
struct ModelMemory {
  std::byte* kv_pool = nullptr;
  KvLayout kv_layout;
  // Rows between two of their intervals: the pool again, as overlapping rows of `hidden`
  // floats that begin at every 64 bytes.
  Matrix<float> hidden_store;
  const TokenId* drawn = nullptr;  // of pending tokens
};

class Transformer {
 public:
  // Borrows everything. Allocates activations for `max_rows` rows and rope tables for
  // `max_positions` positions once; a step allocates nothing in the backend.
  static absl::StatusOr<std::unique_ptr<Transformer>> Create(
      const ModelConfig& config, const LayerSegments& segments, const Weights& weights,
      const Predictors& predictors, const ModelMemory& memory, Ops* ops, int32_t max_rows,
      int32_t max_positions);

  // Writes the K/V of the phantoms of `layout` and enqueues the rows of the step through its
  // layers; the parts of one step come in order. `index` is the uploaded copy of layout.index.
  // Scores what `scores`, in ascending layers, asks for on the way. Afterwards Hidden() holds each
  // row's residual stream as it left.
  void Run(const StepLayout& layout, const int32_t* index, std::span<const ScoreRequest> scores);
  Matrix<float> Hidden(int64_t rows) const { return residual_.Rows(0, rows); }

 private:
  Transformer(const ModelConfig& config, const LayerSegments& segments, const Weights& weights,
              const Predictors& predictors, const ModelMemory& memory, Ops* ops)
      : config_(config),
        segments_(segments),
        weights_(weights),
        predictors_(predictors),
        memory_(memory),
        ops_(*ops) {}
  absl::Status AllocateActivations(int32_t max_rows, int32_t max_positions);
  template <typename T>
  absl::StatusOr<Matrix<T>> NewMatrix(int64_t rows, int64_t cols);

  void Predict(const PhantomSpan& span, const int32_t* index);
  void RunSpan(const LayerSpan& span, const int32_t* index, std::span<const ScoreRequest> scores,
               Matrix<float> x);
  // `scores` are this layer's.
  void RunLayer(int32_t layer, const AttentionRows& rows, std::span<const FormatRows> formats,
                std::span<const ScoreRequest> scores, Matrix<float> x);
  int32_t InSegment(int32_t layer) const;  // how far above the segment's first layer
  int32_t UnitOf(int32_t layer) const { return InSegment(layer) / segments_.unit_layers(); }
  KvLayer LayerKv(int32_t layer) const;
  // Of `qkv`, with `heads` query heads; what depends on the layer is left to the caller.
  RopeWriteArgs RopeArgs(Matrix<const float> qkv, int heads, Matrix<Bf16> q) const;

  const ModelConfig& config_;
  const LayerSegments& segments_;
  const Weights& weights_;
  const Predictors& predictors_;
  const ModelMemory memory_;
  Ops& ops_;

  std::vector<std::unique_ptr<Buffer>> buffers_;  // behind the views below
  Matrix<float> rope_cos_, rope_sin_;             // [positions, rotary_dim / 2]
  Matrix<float> ones_;                            // [1, hidden]
  Matrix<float> residual_;                        // [rows, hidden], in step order
  Matrix<float> gathered_;                        // [rows, hidden], of a span's rows
  Matrix<Bf16> normed_;                           // [rows, hidden]
  Matrix<float> qkv_;                             // [rows, qkv_width]
  Matrix<Bf16> q_;                                // [rows, q_width]
  Matrix<Bf16> attention_;                        // [rows, q_width]
  Matrix<float> lse_;                             // [rows, heads]
  Matrix<Bf16> mlp_;                              // [rows, intermediate]
};

}  // namespace skim
