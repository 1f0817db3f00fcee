// quantization_config of config.json: a checkpoint whose matrices come quantised, in the
// layout called compressed-tensors. Read are the two schemes that this engine computes as
// they are meant:
//   fp8   e4m3 weights. Activations stay bf16, which is finer than the rounding per token
//         that the scheme may ask for
//   int8  int8 weights, activations rounded to int8 per token by their own maximum (W8A8),
//         neither of them rotated
// both with one symmetric scale per output channel. Everything else is refused by its field.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/weight.h"

namespace skim {

struct QuantizationConfig {
  WeightFormat format = WeightFormat::kInt8;  // kFp8 or kInt8
  // Modules that are not quantised: names, as in "lm_head", and regular expressions behind
  // "re:". Which matrices come as codes is told by their type in the file; the names must
  // agree with that, the expressions are taken on trust.
  std::vector<std::string> ignored;

  bool Ignores(const std::string& module) const;
  bool HasExpressions() const;
};

// `object` is the field's value in `file`. INVALID_ARGUMENT for what is no configuration,
// UNIMPLEMENTED for other methods and schemes.
absl::StatusOr<QuantizationConfig> ReadQuantizationConfig(const nlohmann::json& object,
                                                          const std::string& file);

}  // namespace skim
