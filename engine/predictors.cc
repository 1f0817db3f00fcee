#include "engine/predictors.h"

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"

namespace skim {
absl::StatusOr<Predictors> Predictors::Load(const ModelConfig& config, const Checkpoint& checkpoint,
                                            const std::vector<int32_t>& wanted, Ops* ops) {
  Predictors predictors;
  SKIM_ASSIGN_OR_RETURN(
      const std::unique_ptr<CompanionFile> file,
      CompanionFile::Open(checkpoint, kPredictorFile, "./run calibrate --predictors", ops));
  if (!file) return predictors;
  const int64_t width = 2 * int64_t{config.kv_width()}, hidden = config.hidden_size;
  for (const int32_t boundary : wanted) {
    if (!file->tensors().contains(absl::StrCat(boundary, ".", boundary, ".weight"))) continue;
    std::vector<LinearMap>& maps = predictors.maps_[boundary];
    for (int32_t layer = boundary; layer < config.layers; ++layer) {
      SKIM_ASSIGN_OR_RETURN(maps.emplace_back(), file->Map(absl::StrCat(boundary, ".", layer),
                                                           width, hidden, WeightFormat::kBf16));
    }
  }
  predictors.bytes_ = file->bytes();
  return predictors;
}

std::vector<int32_t> Predictors::boundaries() const {
  std::vector<int32_t> boundaries;
  for (const auto& [boundary, maps] : maps_) boundaries.push_back(boundary);
  return boundaries;
}

}  // namespace skim
