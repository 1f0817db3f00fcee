#include "server/weight_formats.h"

#include "server/rpc_status.h"

namespace skim {

v1::WeightFormat ToProto(WeightFormat format) {
  switch (format) {
    case WeightFormat::kBf16:
      return v1::WEIGHT_FORMAT_BF16;
    case WeightFormat::kFp8:
      return v1::WEIGHT_FORMAT_FP8;
    case WeightFormat::kInt8:
      return v1::WEIGHT_FORMAT_INT8;
    case WeightFormat::kInt4:
      return v1::WEIGHT_FORMAT_INT4;
  }
  return v1::WEIGHT_FORMAT_UNSPECIFIED;
}

absl::StatusOr<WeightFormat> ChooseWeights(v1::WeightFormat asked, WeightFormat otherwise,
                                           const std::string& field, const ModelInfo& model) {
  if (!v1::WeightFormat_IsValid(asked)) {
    return InvalidField(field, "unknown value " + std::to_string(asked));
  }
  if (asked == v1::WEIGHT_FORMAT_UNSPECIFIED) return otherwise;
  for (const FormatInfo& resident : model.weights) {
    if (ToProto(resident.format) == asked) return resident.format;
  }
  return FieldError(
      absl::StatusCode::kUnimplemented, field,
      v1::WeightFormat_Name(asked) + " is not resident; this server has " + ResidentNames(model));
}

std::string ResidentNames(const ModelInfo& model) {
  std::string names;
  for (const FormatInfo& resident : model.weights) {
    if (!names.empty()) names += ", ";
    names += WeightFormatName(resident.format);
  }
  return names;
}

}  // namespace skim
