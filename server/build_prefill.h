// The prefill policy of a request: exact, or pruned as a profile or the request itself says.
#pragma once

#include <cstdint>

#include "absl/status/statusor.h"
#include "scheduler/prefill_policy.h"
#include "server/served_model.h"
#include "skim/v1/inference.pb.h"

namespace skim {

// Errors name the field.
absl::StatusOr<PrefillPolicy> BuildPrefill(const v1::GenerateRequest& request,
                                           const ServedModel& model, int32_t prompt_tokens);

}  // namespace skim
