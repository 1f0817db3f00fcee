// Checks one Generate stream against what the protocol promises: every token exactly once,
// exactly one final message per choice and nothing after it, the counts of `usage`, and that
// malformed requests are refused. (Half a UTF-8 character needs no check here: protobuf refuses
// to parse it, so the stream ends with an unexpected status.) Not thread-safe; one per stream.
#pragma once

#include <grpcpp/grpcpp.h>

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "loadtest/planned_request.h"

namespace skim {

enum class FaultKind {
  kMissingTokens,
  kDuplicateTokens,
  kWrongLength,  // ended before or after max_tokens although end tokens are ignored
  kNoFinal,
  kSeveralFinals,
  kEventAfterFinal,
  kUnknownChoice,
  kBadFinal,  // no finish reason, or counts that contradict the request
  kAcceptedMalformed,
  kUnexpectedStatus,  // a failure that this request did not ask for
};

std::string_view FaultName(FaultKind kind);

struct Fault {
  FaultKind kind;
  int64_t count = 1;  // tokens, for the kinds that count them
  std::string detail;
};

class StreamAudit {
 public:
  explicit StreamAudit(const PlannedRequest& planned);

  void OnResponse(const v1::GenerateResponse& response);

  // Call once, with the status the stream ended with. Returns everything found.
  std::vector<Fault> Finish(const grpc::Status& status);

  // Of choice 0, as received so far.
  const std::vector<uint32_t>& token_ids() const { return choices_.front().token_ids; }
  const std::optional<v1::Final>& final() const { return choices_.front().final; }

 private:
  struct Choice {
    std::vector<uint32_t> token_ids;
    std::optional<v1::Final> final;
    int finals = 0;
  };

  void Add(FaultKind kind, std::string detail, int64_t count = 1);
  void CheckStatus(const grpc::Status& status);
  void CheckChoice(uint32_t index);

  const Behaviour behaviour_;
  const size_t malformed_kind_;
  const bool counts_tokens_;      // false if the request asked for no token ids
  const uint32_t prompt_tokens_;  // 0 = not known to us
  const uint32_t max_tokens_;     // 0 = the server's choice
  const v1::WeightFormat weights_;  // unspecified = the server's choice
  const bool exact_length_;
  std::vector<Choice> choices_;
  std::vector<Fault> faults_;
};

}  // namespace skim
