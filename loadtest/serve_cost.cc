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
      kv_size_(model.kv_size()),
      weights_(weights) {}

double ServeCost::ProductFlops(std::span<const LayerTokens> stretches) const {
  const double per_layer = 2 * (parameters_ - embedding_parameters_) / layers_;
  double flops = 2 * embedding_parameters_;
  for (const LayerTokens& s : stretches) flops += per_layer * s.layers * s.tokens;
  return flops;
}

double ServeCost::FixedFlops(std::span<const LayerTokens> stretches) const {
  double flops = 0;
  for (size_t i = 0; i < stretches.size(); ++i) {
    const LayerTokens& s = stretches[i];
    flops += 2 * hidden_size_ * s.layers * s.tokens * (s.seen > 0 ? s.seen : s.tokens);
    flops += 4 * hidden_size_ * kv_size_ * s.predicted_layers;
    const bool cut = i + 1 < stretches.size() && stretches[i + 1].tokens < s.tokens;
    if (cut) flops += 2 * hidden_size_ * s.tokens;
  }
  return flops;
}

double ServeCost::StepBytes(double layers) const {
  const v1::WeightFormat head =
      weights_ == v1::WEIGHT_FORMAT_BF16 ? v1::WEIGHT_FORMAT_BF16 : v1::WEIGHT_FORMAT_INT8;
  return (parameters_ - embedding_parameters_) / layers_ * layers * BytesPerWeight(weights_) +
         embedding_parameters_ * BytesPerWeight(head);
}

double ServeCost::PrefillSeconds(std::span<const LayerTokens> stretches, const Roofs& roofs) const {
  const bool eight_bits = weights_ == v1::WEIGHT_FORMAT_INT8 || weights_ == v1::WEIGHT_FORMAT_INT4;
  return ProductFlops(stretches) / (eight_bits ? roofs.int8_ops : roofs.bf16_flops) +
         FixedFlops(stretches) / roofs.bf16_flops;
}

double ServeCost::PrefillSeconds(double prompt_tokens, const Roofs& roofs) const {
  const LayerTokens all = {layers_, prompt_tokens};
  return PrefillSeconds({&all, 1}, roofs);
}

double ServeCost::StepSeconds(const Roofs& roofs) const {
  return StepBytes() / roofs.read_bytes_per_s;
}

}  // namespace skim
