// Savings by name, for protocols that have no fields for them: NAME:SAVINGS in place of the
// model's name, as in smollm2:fast or smollm2:fast+int8. A word is a weight format, a profile for
// pruning the prompt, or who guesses the output ahead: auto and lookup, with earlier answers as in
// lookup-shared, head, or self, up to a layer or in a weight format as in self-8, self-int8,
// self-8-int8.
#pragma once

#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "server/served_model.h"
#include "skim/v1/inference.pb.h"

namespace skim {

// NAME, or NAME:SAVINGS.
std::string NameWithSavings(const std::string& name, const std::string& savings);

// What stands behind the served name in `asked`, maybe nothing; an empty name is the served one.
// NOT_FOUND, at `field`, for another name.
absl::StatusOr<std::string> SavingsInName(const std::string& asked, const std::string& served,
                                          const std::string& field);

// Sets the fields that `savings` stands for; without words, none. NOT_FOUND, at `field`, for a word
// that this model has nothing for; UNIMPLEMENTED for a drafter that is not served; INVALID_ARGUMENT
// for two words, or a word and a field of the request, for one thing.
absl::Status ApplySavings(const std::string& savings, const ServedModel& model,
                          const std::string& field, v1::GenerateRequest* request);

// Whether a request with these savings, and nothing said beside them, can be served. Errors are at
// `field`.
absl::Status CheckSavings(const std::string& savings, const ServedModel& model,
                          const std::string& field);

}  // namespace skim
