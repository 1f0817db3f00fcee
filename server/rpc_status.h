// Errors of the RPC border: absl::Status inside the server, grpc::Status with
// google.rpc details on the wire. Details ride in the absl::Status as payloads, keyed by
// the type URL that google.rpc.Status uses.
#pragma once

#include <span>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "base/types.h"
#include "grpcpp/support/status.h"

namespace skim {

// What RetryInfo says when a queue is full.
inline constexpr Micros kRetryDelay = 1'000'000;

// `field` is the path in the request message: "sampling.logit_bias[7]". The message reads
// "<field>: <description>" and a BadRequest detail carries both parts.
absl::Status FieldError(absl::StatusCode code, const std::string& field,
                        const std::string& description);

// INVALID_ARGUMENT, the usual case of FieldError.
absl::Status InvalidField(const std::string& field, const std::string& description);

// `status` with BadRequest naming `field`, for errors from below that do not know it.
absl::Status AtField(absl::Status status, const std::string& field);

// The field that a BadRequest detail of `status` names; empty without one.
std::string FieldOf(const absl::Status& status);

// A field of our own request and what another protocol calls it; or how such names begin.
struct FieldName {
  std::string_view ours;
  std::string_view theirs;
};

// `status` with its field called as in the first entry of `names` that its name begins with.
absl::Status RenameField(const absl::Status& status, std::span<const FieldName> names);

// `status` with RetryInfo: the same call may succeed after `delay`.
absl::Status RetryAfter(absl::Status status, Micros delay);

// Payloads become the details of google.rpc.Status in `grpc-status-details-bin`.
grpc::Status ToGrpcStatus(const absl::Status& status);

}  // namespace skim
