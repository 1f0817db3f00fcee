#include "loadtest/serve_cost.h"

namespace skim {
namespace {

double BytesPerWeight(v1::WeightFormat format) {
  switch (format) {
    case v1::WEIGHT_FORMAT_FP8:
    case v1::WEIGHT_FORMAT_INT8:
      return 1;
    case v1::WEIGHT_FORMAT_INT4:
      return 0.5;
    default:
      return 2;
  }
}

}  // namespace

ServeCost::ServeCost(const v1::GetModelResponse& model)
    : parameters_(static_cast<double>(model.parameters())),
      embedding_parameters_(static_cast<double>(model.vocabulary()) * model.hidden_size()),
      layers_(model.layers()),
      hidden_size_(model.hidden_size()),
      bytes_per_weight_(
          BytesPerWeight(model.weight_formats().empty()
                             ? v1::WEIGHT_FORMAT_BF16
                             : static_cast<v1::WeightFormat>(model.weight_formats(0)))) {}

double ServeCost::PrefillFlops(double prompt_tokens) const {
  const double products = 2 * (parameters_ - embedding_parameters_) * prompt_tokens;
  // Scores and weighted values: 2 * 2 * hidden operations a pair, n^2 / 2 pairs a layer.
  const double attention = 2 * layers_ * hidden_size_ * prompt_tokens * prompt_tokens;
  return products + attention;
}

double ServeCost::StepBytes() const { return parameters_ * bytes_per_weight_; }

double ServeCost::PrefillSeconds(double prompt_tokens, const Roofs& roofs) const {
  return PrefillFlops(prompt_tokens) / roofs.bf16_flops;
}

double ServeCost::StepSeconds(const Roofs& roofs) const {
  return StepBytes() / roofs.read_bytes_per_s;
}

}  // namespace skim
