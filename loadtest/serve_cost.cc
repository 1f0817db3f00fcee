#include "loadtest/serve_cost.h"

namespace skim {
namespace {

double BytesPerWeight(v1::WeightFormat format) {
  switch (format) {
    case v1::WEIGHT_FORMAT_FP8:
    case v1::WEIGHT_FORMAT_INT8:
      return 1;
    case v1::WEIGHT_FORMAT_INT4:
      return 5.0 / 8;  // a 16-bit scale and offset for every 32 weights
    default:
      return 2;
  }
}

}  // namespace

ServeCost::ServeCost(const v1::GetModelResponse& model, v1::WeightFormat weights)
    : parameters_(static_cast<double>(model.parameters())),
      embedding_parameters_(static_cast<double>(model.vocabulary()) * model.hidden_size()),
      layers_(model.layers()),
      hidden_size_(model.hidden_size()),
      weights_(weights) {}

double ServeCost::ProductFlops(double prompt_tokens) const {
  return 2 * (parameters_ - embedding_parameters_) * prompt_tokens;
}

double ServeCost::AttentionFlops(double prompt_tokens) const {
  // Scores and weighted values: 2 * 2 * hidden operations a pair, n^2 / 2 pairs a layer.
  return 2 * layers_ * hidden_size_ * prompt_tokens * prompt_tokens;
}

double ServeCost::StepBytes() const {
  const v1::WeightFormat head =
      weights_ == v1::WEIGHT_FORMAT_BF16 ? v1::WEIGHT_FORMAT_BF16 : v1::WEIGHT_FORMAT_INT8;
  return (parameters_ - embedding_parameters_) * BytesPerWeight(weights_) +
         embedding_parameters_ * BytesPerWeight(head);
}

double ServeCost::PrefillSeconds(double prompt_tokens, const Roofs& roofs) const {
  const bool eight_bits = weights_ == v1::WEIGHT_FORMAT_INT8 || weights_ == v1::WEIGHT_FORMAT_INT4;
  return ProductFlops(prompt_tokens) / (eight_bits ? roofs.int8_ops : roofs.bf16_flops) +
         AttentionFlops(prompt_tokens) / roofs.bf16_flops;
}

double ServeCost::StepSeconds(const Roofs& roofs) const {
  return StepBytes() / roofs.read_bytes_per_s;
}

}  // namespace skim
