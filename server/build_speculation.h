// How a request is to be speculated on.
#pragma once

#include "absl/status/statusor.h"
#include "kernels/weight.h"
#include "scheduler/prefill_policy.h"
#include "scheduler/speculation_policy.h"
#include "server/served_model.h"
#include "skim/v1/inference.pb.h"

namespace skim {

// UNIMPLEMENTED, naming the field, for a drafter that this server does not have, or is configured
// not to serve.
absl::Status CheckDrafterServed(const v1::Speculation& speculation, const RequestLimits& limits);

// `weights` and `prefill` are those of the request. Errors name the field.
absl::StatusOr<SpeculationPolicy> BuildSpeculation(const v1::GenerateRequest& request,
                                                   const ServedModel& model, WeightFormat weights,
                                                   const PrefillPolicy& prefill);

}  // namespace skim
