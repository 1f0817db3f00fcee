// Weight formats as a command line names them: "bf16", "fp8", "int8", "int4".
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "skim/v1/inference.pb.h"

namespace skim {

std::string WeightFormatName(v1::WeightFormat format);
// Nothing for a name that is none of these.
std::optional<v1::WeightFormat> ParseWeightFormat(std::string_view name);

}  // namespace skim
