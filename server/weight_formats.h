// Weight formats between the wire and the engine.
#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/engine.h"
#include "kernels/weight.h"
#include "skim/v1/inference.pb.h"

namespace skim {

v1::WeightFormat ToProto(WeightFormat format);

// What is `asked` for in `field`; `otherwise` if nothing is. INVALID_ARGUMENT for a number that
// is no format, UNIMPLEMENTED, naming those that are, for one that is not resident.
absl::StatusOr<WeightFormat> ChooseWeights(v1::WeightFormat asked, WeightFormat otherwise,
                                           const std::string& field, const ModelInfo& model);

// "bf16, int8": the resident formats, the default first.
std::string ResidentNames(const ModelInfo& model);

}  // namespace skim
