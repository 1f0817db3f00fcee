// inference.ModelInferRequest -> v1::GenerateRequest: the same call in this server's own words,
// and what its answer is to hold.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "server/kserve_tensors.h"
#include "skim/v1/inference.pb.h"

namespace skim {

inline constexpr char kKserveVersion[] = "1";  // the only one of every model

struct KserveCall {
  v1::GenerateRequest request;
  bool stream = false;
  std::string prepended;             // to the text of each choice
  bool logprobs_wanted = false;      // by sampling_parameters, not only for their sum
  bool wanted[kKserveOutputs] = {};  // by KserveTensor
};

// Cheap; all checks of values are left to BuildGeneration. `streamable`: came by
// ModelStreamInfer.
absl::StatusOr<KserveCall> FromKserve(const kserve::ModelInferRequest& request, bool streamable);

// The version of a model that a request names.
absl::Status CheckKserveVersion(const std::string& field, const std::string& version);

// `status`, an error about a v1::GenerateRequest that FromKserve made, with the field's name in
// the request that the client sent.
absl::Status ToKserveFields(const absl::Status& status);

}  // namespace skim
