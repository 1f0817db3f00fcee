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

// What `request` asks for; the default of the model if it asks for nothing. INVALID_ARGUMENT
// for a number that is no format, UNIMPLEMENTED, naming those that are, for one that is not
// resident.
absl::StatusOr<WeightFormat> ChooseWeights(const v1::GenerateRequest& request,
                                           const ModelInfo& model);

// "bf16, int8": the resident formats, the default first.
std::string ResidentNames(const ModelInfo& model);

}  // namespace skim
