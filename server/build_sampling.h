// Sampling and Output of a request -> SamplingParams, every range checked. The first fault
// is returned, with the field's path.
#pragma once

#include <cstdint>

#include "absl/status/statusor.h"
#include "engine/engine.h"
#include "engine/sampling_params.h"
#include "server/served_model.h"
#include "skim/v1/inference.pb.h"

namespace skim {

inline constexpr int kMaxStopStrings = 16;
inline constexpr size_t kMaxStopBytes = 256;
inline constexpr int kMaxStopTokens = 64;
inline constexpr size_t kMaxLogitBiases = 1024;
inline constexpr uint32_t kMaxTopLogprobs = 20;

// Everything that needs no prompt: cheap, so it comes before tokenising.
absl::Status CheckSampling(const v1::Sampling& sampling, const v1::Output& output,
                           const ModelInfo& model, const RequestLimits& limits);

// After CheckSampling. `prompt_tokens` + 1 fits the context. The seed is left at the
// request's or at `drawn_seed`.
absl::StatusOr<SamplingParams> BuildSampling(const v1::Sampling& sampling, const v1::Output& output,
                                             const ModelInfo& model, const RequestLimits& limits,
                                             int32_t prompt_tokens, uint64_t drawn_seed);

}  // namespace skim
