// vllm.grpc.engine.GenerateRequest -> v1::GenerateRequest: the same call in this server's own
// words. What the other protocol has and this server does not is refused here.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "skim/v1/inference.pb.h"
#include "vllm/grpc/engine/vllm_engine.pb.h"

namespace skim {

namespace vllm = ::vllm::grpc::engine;

// Cheap; all checks of values are left to BuildGeneration. The savings (weights, prompt
// pruning) are what `model` says behind its name, as this protocol has no fields for them.
absl::StatusOr<v1::GenerateRequest> FromVllm(const vllm::GenerateRequest& request,
                                             const std::string& model);

// `status`, an error about a v1::GenerateRequest that FromVllm made, with the field's name in
// the request that the client sent.
absl::Status ToVllmFields(const absl::Status& status);

}  // namespace skim
