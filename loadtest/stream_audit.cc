#include "loadtest/stream_audit.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "cli/errors.h"
#include "cli/weight_format_name.h"

namespace skim {
namespace {

bool IsRefusal(grpc::StatusCode code) {
  return code == grpc::StatusCode::INVALID_ARGUMENT || code == grpc::StatusCode::OUT_OF_RANGE ||
         code == grpc::StatusCode::UNIMPLEMENTED || code == grpc::StatusCode::NOT_FOUND;
}

uint32_t ChoicesOf(const v1::GenerateRequest& request) {
  // A malformed request may ask for any number, and must not get any.
  return std::clamp<uint32_t>(request.sampling().has_n() ? request.sampling().n() : 1, 1, 1024);
}

}  // namespace

std::string_view FaultName(FaultKind kind) {
  switch (kind) {
    case FaultKind::kMissingTokens:
      return "missing_tokens";
    case FaultKind::kDuplicateTokens:
      return "duplicate_tokens";
    case FaultKind::kWrongLength:
      return "wrong_length";
    case FaultKind::kNoFinal:
      return "no_final";
    case FaultKind::kSeveralFinals:
      return "several_finals";
    case FaultKind::kEventAfterFinal:
      return "event_after_final";
    case FaultKind::kUnknownChoice:
      return "unknown_choice";
    case FaultKind::kBadFinal:
      return "bad_final";
    case FaultKind::kAcceptedMalformed:
      return "accepted_malformed";
    case FaultKind::kUnexpectedStatus:
      return "unexpected_status";
  }
  return "unknown";
}

StreamAudit::StreamAudit(const PlannedRequest& planned)
    : behaviour_(planned.behaviour),
      malformed_kind_(planned.malformed_kind),
      counts_tokens_(!planned.request.output().has_token_ids() ||
                     planned.request.output().token_ids()),
      prompt_tokens_(static_cast<uint32_t>(planned.request.token_ids().ids_size())),
      max_tokens_(planned.request.sampling().max_tokens()),
      weights_(planned.request.weights()),
      exact_length_(planned.request.sampling().ignore_eos() &&
                    planned.request.sampling().stop_size() == 0 &&
                    planned.request.sampling().stop_token_ids_size() == 0 &&
                    !planned.request.has_time_limit_ms() && max_tokens_ > 0),
      choices_(ChoicesOf(planned.request)) {}

void StreamAudit::Add(FaultKind kind, std::string detail, int64_t count) {
  faults_.push_back({kind, count, std::move(detail)});
}

void StreamAudit::OnResponse(const v1::GenerateResponse& response) {
  if (response.index() >= choices_.size()) {
    Add(FaultKind::kUnknownChoice, absl::StrCat("choice ", response.index()));
    return;
  }
  Choice& choice = choices_[response.index()];
  if (response.has_final()) {
    if (++choice.finals > 1) {
      Add(FaultKind::kSeveralFinals, absl::StrCat("choice ", response.index()));
    }
    choice.final = response.final();
    return;
  }
  if (choice.finals > 0) {
    Add(FaultKind::kEventAfterFinal, absl::StrCat("choice ", response.index()));
  }
  const auto& ids = response.delta().token_ids();
  choice.token_ids.insert(choice.token_ids.end(), ids.begin(), ids.end());
}

std::vector<Fault> StreamAudit::Finish(const grpc::Status& status) {
  CheckStatus(status);
  for (uint32_t i = 0; i < choices_.size(); ++i) {
    if (choices_[i].final) {
      CheckChoice(i);
    } else if (status.ok()) {
      Add(FaultKind::kNoFinal, absl::StrCat("choice ", i));
    }
  }
  return std::move(faults_);
}

void StreamAudit::CheckStatus(const grpc::Status& status) {
  const grpc::StatusCode code = status.error_code();
  if (behaviour_ == Behaviour::kMalformed) {
    if (status.ok()) {
      Add(FaultKind::kAcceptedMalformed, absl::StrCat("kind ", malformed_kind_));
    } else if (!IsRefusal(code)) {
      Add(FaultKind::kUnexpectedStatus,
          absl::StrCat(std::string(CodeName(code)), " for malformed kind ", malformed_kind_));
    }
    return;
  }
  const bool may_end = status.ok() ||
                       // Full is an answer; it is counted as an error, not as a fault.
                       code == grpc::StatusCode::RESOURCE_EXHAUSTED ||
                       (behaviour_ == Behaviour::kCancel && code == grpc::StatusCode::CANCELLED) ||
                       // Who does not read is ended after a while, in one of these ways.
                       (behaviour_ == Behaviour::kSlowReader &&
                        (code == grpc::StatusCode::DEADLINE_EXCEEDED ||
                         code == grpc::StatusCode::ABORTED || code == grpc::StatusCode::CANCELLED));
  if (!may_end) {
    Add(FaultKind::kUnexpectedStatus,
        absl::StrCat(std::string(CodeName(code)), ": ", status.error_message()));
  }
}

void StreamAudit::CheckChoice(uint32_t index) {
  const Choice& choice = choices_[index];
  const v1::Final& final = *choice.final;
  const uint32_t generated = final.usage().generated_tokens();
  const auto received = static_cast<int64_t>(choice.token_ids.size());
  if (counts_tokens_ && received < generated) {
    Add(FaultKind::kMissingTokens, absl::StrCat("choice ", index), generated - received);
  } else if (counts_tokens_ && received > generated) {
    Add(FaultKind::kDuplicateTokens, absl::StrCat("choice ", index), received - generated);
  }
  if (final.finish_reason() == v1::FINISH_REASON_UNSPECIFIED) {
    Add(FaultKind::kBadFinal, "no finish reason");
  }
  if (prompt_tokens_ > 0 && final.usage().prompt_tokens() != prompt_tokens_) {
    Add(FaultKind::kBadFinal, absl::StrCat("usage counts ", final.usage().prompt_tokens(),
                                           " prompt tokens of ", prompt_tokens_));
  }
  if (weights_ != v1::WEIGHT_FORMAT_UNSPECIFIED && final.weights() != weights_) {
    Add(FaultKind::kBadFinal, absl::StrCat("computed with ", WeightFormatName(final.weights()),
                                           " weights, not ", WeightFormatName(weights_)));
  }
  if (max_tokens_ > 0 && generated > max_tokens_) {
    Add(FaultKind::kWrongLength, absl::StrCat(generated, " of at most ", max_tokens_));
  } else if (exact_length_ && generated < max_tokens_ &&
             (behaviour_ == Behaviour::kNormal ||
              final.finish_reason() == v1::FINISH_REASON_LENGTH)) {
    Add(FaultKind::kWrongLength, absl::StrCat(generated, " of ", max_tokens_));
  }
}

}  // namespace skim
