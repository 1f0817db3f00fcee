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

absl::StatusOr<WeightFormat> ChooseWeights(const v1::GenerateRequest& request,
                                           const ModelInfo& model) {
  if (!v1::WeightFormat_IsValid(request.weights())) {
    return InvalidField("weights", "unknown value " + std::to_string(request.weights()));
  }
  if (request.weights() == v1::WEIGHT_FORMAT_UNSPECIFIED) return model.weights.front().format;
  for (const FormatInfo& resident : model.weights) {
    if (ToProto(resident.format) == request.weights()) return resident.format;
  }
  return FieldError(absl::StatusCode::kUnimplemented, "weights",
                    v1::WeightFormat_Name(request.weights()) +
                        " is not resident; this server has " + ResidentNames(model));
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
