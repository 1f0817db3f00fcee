#include "cli/errors.h"

#include <iterator>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"

namespace skim {
namespace {

struct Details {
  std::vector<std::string> violations;  // "field: what is wrong"
  double retry_s = 0;                   // 0 = not told
};

// `message` often says what a violation says; nobody wants to read it twice.
Details ReadDetails(const grpc::Status& status, const std::string& message) {
  Details details;
  google::rpc::Status rich;
  if (!rich.ParseFromString(status.error_details())) return details;
  for (const auto& any : rich.details()) {
    google::rpc::BadRequest bad;
    google::rpc::RetryInfo retry;
    if (any.UnpackTo(&bad)) {
      for (const auto& violation : bad.field_violations()) {
        const bool said = message.find(violation.field()) != std::string::npos &&
                          message.find(violation.description()) != std::string::npos;
        if (!said) {
          details.violations.push_back(
              absl::StrCat(violation.field(), ": ", violation.description()));
        }
      }
    } else if (any.UnpackTo(&retry)) {
      const auto& delay = retry.retry_delay();
      details.retry_s = static_cast<double>(delay.seconds()) + delay.nanos() * 1e-9;
    }
  }
  return details;
}

std::string WhatToDo(grpc::StatusCode code, const Details& details, std::string_view server) {
  if (details.retry_s > 0) return absl::StrCat("try again in ", details.retry_s, " s");
  switch (code) {
    case grpc::StatusCode::INVALID_ARGUMENT:
    case grpc::StatusCode::OUT_OF_RANGE:
      return "change that value and try again";
    case grpc::StatusCode::UNIMPLEMENTED:
      return "this server cannot do that; leave the option out";
    case grpc::StatusCode::UNAVAILABLE:
      return absl::StrCat("is skimd up and ready at ", std::string(server), "? (--server)");
    case grpc::StatusCode::RESOURCE_EXHAUSTED:
      return "the server is full; try again later or ask for less";
    case grpc::StatusCode::DEADLINE_EXCEEDED:
      return "give it longer with --timeout";
    case grpc::StatusCode::UNAUTHENTICATED:
    case grpc::StatusCode::PERMISSION_DENIED:
      return "check --token-file and --tls-cert";
    case grpc::StatusCode::NOT_FOUND:
      return "'skim model' tells what is served";
    case grpc::StatusCode::INTERNAL:
    case grpc::StatusCode::UNKNOWN:
      return "the server's log tells more";
    default:
      return "";
  }
}

std::string OneLine(std::string_view text) {
  std::string line;
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (byte == '\n' || byte == '\t') {
      line += ' ';
    } else if (byte >= 0x20 && byte != 0x7f) {
      line += c;
    }
  }
  return line;
}

}  // namespace

ExitCode ExitCodeOf(const grpc::Status& status) {
  switch (status.error_code()) {
    case grpc::StatusCode::OK:
      return kExitOk;
    case grpc::StatusCode::INVALID_ARGUMENT:
    case grpc::StatusCode::OUT_OF_RANGE:
    case grpc::StatusCode::UNIMPLEMENTED:
    case grpc::StatusCode::NOT_FOUND:
    case grpc::StatusCode::FAILED_PRECONDITION:
      return kExitBadRequest;
    case grpc::StatusCode::UNAVAILABLE:
      return kExitUnreachable;
    case grpc::StatusCode::RESOURCE_EXHAUSTED:
      return kExitBusy;
    case grpc::StatusCode::DEADLINE_EXCEEDED:
      return kExitTimeout;
    case grpc::StatusCode::UNAUTHENTICATED:
    case grpc::StatusCode::PERMISSION_DENIED:
      return kExitNotAllowed;
    default:
      return kExitFailed;
  }
}

std::string_view CodeName(grpc::StatusCode code) {
  constexpr std::string_view kNames[] = {"OK",
                                         "CANCELLED",
                                         "UNKNOWN",
                                         "INVALID_ARGUMENT",
                                         "DEADLINE_EXCEEDED",
                                         "NOT_FOUND",
                                         "ALREADY_EXISTS",
                                         "PERMISSION_DENIED",
                                         "RESOURCE_EXHAUSTED",
                                         "FAILED_PRECONDITION",
                                         "ABORTED",
                                         "OUT_OF_RANGE",
                                         "UNIMPLEMENTED",
                                         "INTERNAL",
                                         "UNAVAILABLE",
                                         "DATA_LOSS",
                                         "UNAUTHENTICATED"};
  const auto index = static_cast<size_t>(code);
  return index < std::size(kNames) ? kNames[index] : "UNKNOWN";
}

std::string Explain(const grpc::Status& status, std::string_view server) {
  const Details details = ReadDetails(status, status.error_message());
  std::vector<std::string> parts = {std::string(CodeName(status.error_code()))};
  if (!status.error_message().empty()) parts.back() += ": " + status.error_message();
  parts.insert(parts.end(), details.violations.begin(), details.violations.end());
  if (std::string advice = WhatToDo(status.error_code(), details, server); !advice.empty()) {
    parts.push_back(std::move(advice));
  }
  return OneLine(absl::StrJoin(parts, "; "));
}

}  // namespace skim
