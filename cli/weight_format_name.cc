#include "cli/weight_format_name.h"

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"

namespace skim {
namespace {

constexpr std::string_view kPrefix = "WEIGHT_FORMAT_";

}  // namespace

std::string WeightFormatName(v1::WeightFormat format) {
  const std::string& name = v1::WeightFormat_Name(format);
  if (name.empty()) return absl::StrCat("format ", static_cast<int>(format));
  return absl::AsciiStrToLower(name.substr(kPrefix.size()));
}

std::optional<v1::WeightFormat> ParseWeightFormat(std::string_view name) {
  for (const v1::WeightFormat format : {v1::WEIGHT_FORMAT_BF16, v1::WEIGHT_FORMAT_FP8,
                                        v1::WEIGHT_FORMAT_INT8, v1::WEIGHT_FORMAT_INT4}) {
    if (WeightFormatName(format) == name) return format;
  }
  return std::nullopt;
}

}  // namespace skim
