// Maps that predict the keys and values of a layer from the hidden state with which a token stopped
// at a cut below it: skim_predictors.safetensors beside the model, made by `./run calibrate
// --predictors`. For a boundary b and a layer l >= b, with h the residual stream before layer b,
//
//   [k_l before its rotation ; v_l] = W(b, l) h / rms(h) + c(b, l),
//
// fitted by least squares; of a model with normed keys, k_l is the normed one. They lie in the file
// as `b.l.weight`, [2 * kv_width, hidden], and `b.l.bias`, [2 * kv_width]; its metadata tells
// `version` 1 and `fingerprint`, that of the model it was made for.
#pragma once

#include <cstdint>
#include <map>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/checkpoint.h"
#include "engine/companion_file.h"
#include "engine/model_config.h"
#include "kernels/ops.h"

namespace skim {

inline constexpr char kPredictorFile[] = "skim_predictors.safetensors";

// Immutable after Load.
class Predictors {
 public:
  // Those of the boundaries in `wanted` that the file has; none if there is no file. The errors
  // name the file: INVALID_ARGUMENT for one that is broken, of another shape or of another model.
  static absl::StatusOr<Predictors> Load(const ModelConfig& config, const Checkpoint& checkpoint,
                                         const std::vector<int32_t>& wanted, Ops* ops);

  bool Has(int32_t boundary) const { return maps_.contains(boundary); }
  // In bf16, whatever the weight format of the rows.
  const LinearMap& At(int32_t boundary, int32_t layer) const {
    return maps_.at(boundary)[static_cast<size_t>(layer - boundary)];
  }
  std::vector<int32_t> boundaries() const;   // ascending
  uint64_t bytes() const { return bytes_; }  // resident in the backend

 private:
  std::map<int32_t, std::vector<LinearMap>> maps_;  // by boundary, from its layer on
  uint64_t bytes_ = 0;
};

}  // namespace skim
