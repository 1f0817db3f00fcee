// Sampling parameters as a JSON object of vLLM's words -> the fields of v1::Sampling and
// v1::Output. Most have the same name on both sides; the proto's descriptors say of which type.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "skim/v1/inference.pb.h"

namespace skim {

// Fills both from `json`. Numbers and booleans may be quoted, null is unset, a top_k of -1 is
// off. Checks types only; values are left to BuildGeneration. Errors name `field`.key, or `field`
// alone where the text is no JSON object.
absl::Status ReadSamplingJson(const std::string& json, const std::string& field,
                              v1::Sampling* sampling, v1::Output* output);

}  // namespace skim
