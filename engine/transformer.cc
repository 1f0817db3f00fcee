#include "engine/transformer.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "base/status_macros.h"
#include "engine/rope.h"

namespace skim {

absl::StatusOr<std::unique_ptr<Transformer>> Transformer::Create(
    const ModelConfig& config, const LayerSegments& segments, const Weights& weights,
    const Predictors& predictors, const ModelMemory& memory, Ops* ops, int32_t max_rows,
    int32_t max_positions) {
  std::unique_ptr<Transformer> transformer(
      new Transformer(config, segments, weights, predictors, memory, ops));
  SKIM_RETURN_IF_ERROR(transformer->AllocateActivations(max_rows, max_positions));
  return transformer;
}

template <typename T>
absl::StatusOr<Matrix<T>> Transformer::NewMatrix(int64_t rows, int64_t cols) {
  SKIM_ASSIGN_OR_RETURN(std::unique_ptr<Buffer> buffer,
                        ops_.Allocate(static_cast<size_t>(rows * cols) * sizeof(T)));
  buffers_.push_back(std::move(buffer));
  return Matrix<T>{buffers_.back()->As<T>(), rows, cols, cols};
}

absl::Status Transformer::AllocateActivations(int32_t max_rows, int32_t max_positions) {
  const int64_t hidden = config_.hidden_size;
  SKIM_ASSIGN_OR_RETURN(residual_, NewMatrix<float>(max_rows, hidden));
  SKIM_ASSIGN_OR_RETURN(gathered_, NewMatrix<float>(max_rows, hidden));
  SKIM_ASSIGN_OR_RETURN(normed_, NewMatrix<Bf16>(max_rows, hidden));
  SKIM_ASSIGN_OR_RETURN(qkv_, NewMatrix<float>(max_rows, config_.qkv_width()));
  SKIM_ASSIGN_OR_RETURN(q_, NewMatrix<Bf16>(max_rows, config_.q_width()));
  SKIM_ASSIGN_OR_RETURN(attention_, NewMatrix<Bf16>(max_rows, config_.q_width()));
  SKIM_ASSIGN_OR_RETURN(lse_, NewMatrix<float>(max_rows, config_.heads));
  SKIM_ASSIGN_OR_RETURN(mlp_, NewMatrix<Bf16>(max_rows, config_.intermediate_size));

  const RopeTables tables = MakeRopeTables(config_, max_positions);
  SKIM_ASSIGN_OR_RETURN(rope_cos_, NewMatrix<float>(max_positions, config_.rotary_dim / 2));
  SKIM_ASSIGN_OR_RETURN(rope_sin_, NewMatrix<float>(max_positions, config_.rotary_dim / 2));
  ops_.Upload(rope_cos_.data, tables.cos.data(), tables.cos.size() * sizeof(float));
  ops_.Upload(rope_sin_.data, tables.sin.data(), tables.sin.size() * sizeof(float));
  SKIM_ASSIGN_OR_RETURN(ones_, NewMatrix<float>(1, hidden));
  const std::vector<float> ones(static_cast<size_t>(hidden), 1);
  ops_.Upload(ones_.data, ones.data(), ones.size() * sizeof(float));
  return ops_.Wait();
}

KvLayer Transformer::LayerKv(int32_t layer) const {
  return {memory_.kv_pool, memory_.kv_layout, InSegment(layer) % segments_.unit_layers()};
}

int32_t Transformer::InSegment(int32_t layer) const {
  return layer - segments_.segments()[segments_.SegmentOf(layer)].first_layer;
}

RopeWriteArgs Transformer::RopeArgs(Matrix<const float> qkv, int heads, Matrix<Bf16> q) const {
  return {.qkv = qkv,
          .heads = heads,
          .norm_eps = config_.norm_eps,
          .rope_cos = rope_cos_.data,
          .rope_sin = rope_sin_.data,
          .rotary_dim = config_.rotary_dim,
          .q = q};
}

void Transformer::Run(const StepLayout& layout, const int32_t* index,
                      std::span<const ScoreRequest> scores) {
  for (const PhantomSpan& span : layout.phantoms) Predict(span, index);
  if (layout.first_layer == 0) {
    ops_.Embed(*weights_.embedding_table, index + layout.tokens, memory_.drawn,
               residual_.Rows(0, layout.rows));
  }
  if (const HiddenTransfer& enter = layout.enter; enter.rows > 0) {
    const Matrix<float> moved = gathered_.Rows(0, enter.rows);
    ops_.GatherRows(memory_.hidden_store, index + enter.hidden_rows, moved);
    ops_.ScatterRows(moved, index + enter.step_rows, residual_);
  }
  for (const LayerSpan& span : layout.spans) {
    if (span.every_row) {
      RunSpan(span, index, scores, residual_.Rows(0, span.rows));
      continue;
    }
    const Matrix<float> x = gathered_.Rows(0, span.rows);
    ops_.GatherRows(residual_, index + span.gather, x);
    RunSpan(span, index, scores, x);
    ops_.ScatterRows(x, index + span.gather, residual_);
  }
  if (const HiddenTransfer& leave = layout.leave; leave.rows > 0) {
    const Matrix<float> moved = gathered_.Rows(0, leave.rows);
    ops_.GatherRows(residual_, index + leave.step_rows, moved);
    ops_.ScatterRows(moved, index + leave.hidden_rows, memory_.hidden_store);
  }
}

void Transformer::Predict(const PhantomSpan& span, const int32_t* index) {
  const Matrix<float> hidden = gathered_.Rows(0, span.rows);
  const Matrix<Bf16> normed = normed_.Rows(0, span.rows);
  const int64_t width = 2 * int64_t{config_.kv_width()};
  const Matrix<float> kv = {qkv_.data, span.rows, width, width};
  ops_.GatherRows(memory_.hidden_store, index + span.hidden_rows, hidden);
  ops_.RmsNorm(hidden, ones_.data, config_.norm_eps, normed);
  AttentionRows rows;
  rows.sequences = span.sequences;
  rows.positions = rows.slots = index + span.positions;
  for (int32_t layer = span.first_layer; layer < span.end_layer; ++layer) {
    rows.blocks = index + span.blocks + int64_t{UnitOf(layer)} * span.blocks_per_unit;
    const LinearMap& map = predictors_.At(span.cut_layer, layer);
    ops_.Linear(normed, *map.weight, map.bias->As<float>(), /*accumulate=*/false, kv);
    ops_.RopeAndWriteKv(RopeArgs(kv, /*heads=*/0, {}), rows, LayerKv(layer));
  }
}

void Transformer::RunSpan(const LayerSpan& span, const int32_t* index,
                          std::span<const ScoreRequest> scores, Matrix<float> x) {
  AttentionRows rows;
  rows.sequences = span.sequences;
  rows.positions = index + span.positions;
  rows.slots = index + span.slots;
  rows.slot_positions = index + span.slot_positions;
  for (int32_t layer = span.first_layer; layer < span.end_layer; ++layer) {
    rows.blocks = index + span.blocks + int64_t{UnitOf(layer)} * span.blocks_per_unit;
    const auto here = std::ranges::equal_range(scores, layer, {}, &ScoreRequest::layer);
    RunLayer(layer, rows, span.formats, here, x);
  }
}

void Transformer::RunLayer(int32_t layer, const AttentionRows& rows,
                           std::span<const FormatRows> formats,
                           std::span<const ScoreRequest> scores, Matrix<float> x) {
  const LayerWeights& w = weights_.layers[layer];
  const float eps = config_.norm_eps;
  const KvLayer kv = LayerKv(layer);
  const Matrix<Bf16> normed = normed_.Rows(0, x.rows), q = q_.Rows(0, x.rows);
  const Matrix<Bf16> attention = attention_.Rows(0, x.rows), mlp = mlp_.Rows(0, x.rows);
  const Matrix<float> qkv = qkv_.Rows(0, x.rows);

  ops_.RmsNorm(x, Floats(w.input_norm), eps, normed);
  LinearByFormat(ops_, formats, normed, w.qkv, Floats(w.qkv_bias), /*accumulate=*/false, qkv);
  RopeWriteArgs rope = RopeArgs(qkv, config_.heads, q);
  rope.q_norm = Floats(w.q_norm);
  rope.k_norm = Floats(w.k_norm);
  ops_.RopeAndWriteKv(rope, rows, kv);
  const float scale = 1.0f / std::sqrt(static_cast<float>(config_.head_dim));
  float* lse = scores.empty() ? nullptr : lse_.data;
  ops_.Attention({.q = q, .heads = config_.heads, .scale = scale, .out = attention, .lse = lse},
                 rows, kv);
  for (const ScoreRequest& request : scores) {
    ops_.KeyScores({.q = q,
                    .lse = lse,
                    .heads = config_.heads,
                    .scale = scale,
                    .scored_heads = request.heads,
                    .targets = request.targets},
                   rows, kv);
  }
  LinearByFormat(ops_, formats, attention, w.output, Floats(w.output_bias), /*accumulate=*/true, x);

  ops_.RmsNorm(x, Floats(w.post_norm), eps, normed);
  LinearSwiGluByFormat(ops_, formats, normed, w.gate_up, Floats(w.gate_up_bias), mlp);
  LinearByFormat(ops_, formats, mlp, w.down, Floats(w.down_bias), /*accumulate=*/true, x);
}

}  // namespace skim
