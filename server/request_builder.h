// GenerateRequest -> Requests for the serving loop, or the first thing wrong with it. Here
// ends whatever a client can send; below this line every value is in range.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/types.h"
#include "scheduler/request.h"
#include "server/choice_output.h"
#include "server/served_model.h"
#include "skim/v1/inference.pb.h"

namespace skim {

inline constexpr int kMaxChatMessages = 1024;
inline constexpr size_t kMaxNameBytes = 256;  // request_id, tenant, cache_salt

struct Generation {
  std::vector<Request> requests;  // one a choice; `id` and `group` still 0
  OutputOptions output;
};

// Tokenises, so: text workers only. `now` and `deadline` are on the loop's clock; a time
// limit counts from `arrival`.
absl::StatusOr<Generation> BuildGeneration(const v1::GenerateRequest& request,
                                           const ServedModel& model, Micros arrival,
                                           Micros deadline, uint64_t drawn_seed);

// Fit for a log line: printable ASCII, at most kMaxNameBytes.
bool IsPrintableName(const std::string& value);

// Which member of the oneof is set: "text", "chat" or "token_ids"; "input" if none.
const char* InputField(const v1::GenerateRequest& request);

// The same reading of text and chat for Tokenize.
absl::StatusOr<std::vector<TokenId>> EncodeText(const std::string& text, bool parse_special,
                                                const Tokenizer& tokenizer);
absl::StatusOr<std::vector<TokenId>> EncodeChat(const v1::Chat& chat, const Tokenizer& tokenizer);

// Ids from the wire, each below `vocabulary`.
absl::StatusOr<std::vector<TokenId>> CheckedIds(
    const google::protobuf::RepeatedField<uint32_t>& ids, const std::string& field,
    int32_t vocabulary);

}  // namespace skim
