#include "server/rpc_status.h"

#include "absl/strings/cord.h"
#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"

namespace skim {
namespace {

std::string TypeUrl(const google::protobuf::Message& detail) {
  return "type.googleapis.com/" + detail.GetTypeName();
}

void Attach(const google::protobuf::Message& detail, absl::Status* status) {
  status->SetPayload(TypeUrl(detail), absl::Cord(detail.SerializeAsString()));
}

void AttachViolation(const std::string& field, const std::string& description,
                     absl::Status* status) {
  google::rpc::BadRequest detail;
  auto* violation = detail.add_field_violations();
  violation->set_field(field);
  violation->set_description(description);
  Attach(detail, status);
}

}  // namespace

absl::Status FieldError(absl::StatusCode code, const std::string& field,
                        const std::string& description) {
  absl::Status status(code, field + ": " + description);
  AttachViolation(field, description, &status);
  return status;
}

absl::Status InvalidField(const std::string& field, const std::string& description) {
  return FieldError(absl::StatusCode::kInvalidArgument, field, description);
}

absl::Status AtField(absl::Status status, const std::string& field) {
  return FieldError(status.code(), field, std::string(status.message()));
}

std::string FieldOf(const absl::Status& status) {
  google::rpc::BadRequest detail;
  const auto payload = status.GetPayload(TypeUrl(detail));
  if (!payload.has_value() || !detail.ParseFromString(std::string(*payload)) ||
      detail.field_violations().empty()) {
    return "";
  }
  return detail.field_violations(0).field();
}

absl::Status RenameField(const absl::Status& status, std::span<const FieldName> names) {
  const std::string field = FieldOf(status);
  for (const FieldName& name : names) {
    if (field.empty() || !std::string_view(field).starts_with(name.ours)) continue;
    const std::string theirs = std::string(name.theirs) + field.substr(name.ours.size());
    std::string what(status.message());
    const std::string prefix = field + ": ";
    if (what.starts_with(prefix)) what.erase(0, prefix.size());
    return FieldError(status.code(), theirs, what);
  }
  return status;
}

absl::Status RetryAfter(absl::Status status, Micros delay) {
  google::rpc::RetryInfo detail;
  detail.mutable_retry_delay()->set_seconds(delay / 1'000'000);
  detail.mutable_retry_delay()->set_nanos(static_cast<int32_t>(delay % 1'000'000) * 1000);
  Attach(detail, &status);
  return status;
}

grpc::Status ToGrpcStatus(const absl::Status& status) {
  if (status.ok()) return grpc::Status::OK;
  google::rpc::Status proto;
  proto.set_code(static_cast<int>(status.code()));  // the two enums share their numbers
  proto.set_message(std::string(status.message()));
  status.ForEachPayload([&](absl::string_view type_url, const absl::Cord& payload) {
    auto* any = proto.add_details();
    any->set_type_url(std::string(type_url));
    any->set_value(std::string(payload));
  });
  const std::string details = proto.details_size() > 0 ? proto.SerializeAsString() : "";
  return grpc::Status(static_cast<grpc::StatusCode>(status.code()), proto.message(), details);
}

}  // namespace skim
