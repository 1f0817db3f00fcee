#include "engine/predictors.h"

#include <filesystem>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "engine/fingerprint.h"
#include "engine/safetensors.h"

namespace skim {
namespace {

template <typename T>
absl::StatusOr<std::vector<T>> ReadAs(const SafetensorsFile& file, const std::string& name,
                                      const std::vector<int64_t>& shape) {
  const auto found = file.tensors().find(name);
  if (found == file.tensors().end() || found->second.shape != shape) {
    return absl::InvalidArgumentError(
        absl::StrCat(file.path(), ": ", name, " is missing or has another shape"));
  }
  if constexpr (std::is_same_v<T, float>) {
    return file.ReadFloat(name);
  } else {
    return file.ReadBf16(name);
  }
}

}  // namespace

absl::StatusOr<Predictors> Predictors::Load(const ModelConfig& config, const Checkpoint& checkpoint,
                                            const std::vector<int32_t>& wanted, Ops* ops) {
  Predictors predictors;
  const std::string path = absl::StrCat(checkpoint.directory(), "/", kPredictorFile);
  if (!std::filesystem::exists(path)) return predictors;
  SKIM_ASSIGN_OR_RETURN(const SafetensorsFile file, SafetensorsFile::Open(path));
  SKIM_RETURN_IF_ERROR(CheckMadeFor(checkpoint, file, "./run calibrate --predictors"));
  const int64_t width = 2 * int64_t{config.kv_width()}, hidden = config.hidden_size;
  for (const int32_t boundary : wanted) {
    if (!file.tensors().contains(absl::StrCat(boundary, ".", boundary, ".weight"))) continue;
    std::vector<Map>& maps = predictors.maps_[boundary];
    for (int32_t layer = boundary; layer < config.layers; ++layer) {
      const std::string name = absl::StrCat(boundary, ".", layer);
      SKIM_ASSIGN_OR_RETURN(const std::vector<Bf16> weight,
                            ReadAs<Bf16>(file, name + ".weight", {width, hidden}));
      SKIM_ASSIGN_OR_RETURN(const std::vector<float> bias,
                            ReadAs<float>(file, name + ".bias", {width}));
      Map& map = maps.emplace_back();
      SKIM_ASSIGN_OR_RETURN(map.weight, ops->PackWeight({weight.data(), width, hidden, hidden},
                                                        WeightFormat::kBf16, WeightShape::kPlain));
      SKIM_ASSIGN_OR_RETURN(map.bias, ops->Allocate(bias.size() * sizeof(float)));
      ops->Upload(map.bias->data(), bias.data(), bias.size() * sizeof(float));
      SKIM_RETURN_IF_ERROR(ops->Wait());
      predictors.bytes_ += map.weight->bytes() + bias.size() * sizeof(float);
    }
  }
  return predictors;
}

std::vector<int32_t> Predictors::boundaries() const {
  std::vector<int32_t> boundaries;
  for (const auto& [boundary, maps] : maps_) boundaries.push_back(boundary);
  return boundaries;
}

}  // namespace skim
