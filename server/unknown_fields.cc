#include "server/unknown_fields.h"

#include <string>
#include <vector>

#include "base/status_macros.h"
#include "google/protobuf/descriptor.h"
#include "google/protobuf/unknown_field_set.h"
#include "server/rpc_status.h"

namespace skim {

absl::Status CheckNoUnknownFields(const google::protobuf::Message& message) {
  const auto* reflection = message.GetReflection();
  const auto& unknown = reflection->GetUnknownFields(message);
  if (!unknown.empty()) {
    return FieldError(
        absl::StatusCode::kUnimplemented,
        message.GetDescriptor()->full_name() + "." + std::to_string(unknown.field(0).number()),
        "this server does not know the field");
  }
  std::vector<const google::protobuf::FieldDescriptor*> fields;
  reflection->ListFields(message, &fields);
  for (const auto* field : fields) {
    // Map entries hold scalars only in this contract.
    if (field->cpp_type() != field->CPPTYPE_MESSAGE || field->is_map()) continue;
    if (!field->is_repeated()) {
      SKIM_RETURN_IF_ERROR(CheckNoUnknownFields(reflection->GetMessage(message, field)));
      continue;
    }
    for (int i = 0; i < reflection->FieldSize(message, field); ++i) {
      SKIM_RETURN_IF_ERROR(CheckNoUnknownFields(reflection->GetRepeatedMessage(message, field, i)));
    }
  }
  return absl::OkStatus();
}

}  // namespace skim
