#include "server/build_sampling.h"

#include <algorithm>
#include <cmath>
#include <string>

#include "base/status_macros.h"
#include "server/rpc_status.h"

namespace skim {
namespace {

enum class Bound { kIncluded, kExcluded };

// Refuses NaN and infinities too: neither compares as inside.
absl::Status CheckRange(const char* field, float value, float low, Bound low_bound, float high) {
  const bool above = low_bound == Bound::kIncluded ? value >= low : value > low;
  if (std::isfinite(value) && above && value <= high) return absl::OkStatus();
  const bool unbounded = high == INFINITY;
  std::string range = (low_bound == Bound::kIncluded ? "at least " : "more than ") +
                      std::to_string(static_cast<int>(low));
  if (!unbounded) range += " and at most " + std::to_string(static_cast<int>(high));
  return InvalidField(field,
                      "must be a finite number, " + range + "; it is " + std::to_string(value));
}

absl::Status CheckToken(const std::string& field, uint32_t id, const ModelInfo& model) {
  if (id < static_cast<uint32_t>(model.vocabulary)) return absl::OkStatus();
  return InvalidField(field, "token id " + std::to_string(id) + " is not in the vocabulary of " +
                                 std::to_string(model.vocabulary));
}

absl::Status CheckAtMost(const char* field, uint64_t value, uint64_t limit, const char* what) {
  if (value <= limit) return absl::OkStatus();
  return InvalidField(
      field, std::to_string(value) + " " + what + "; the limit is " + std::to_string(limit));
}

absl::Status CheckNumbers(const v1::Sampling& s) {
  constexpr float kInf = INFINITY;
  if (s.has_temperature()) {
    SKIM_RETURN_IF_ERROR(
        CheckRange("sampling.temperature", s.temperature(), 0, Bound::kIncluded, kInf));
  }
  if (s.has_top_p()) {
    SKIM_RETURN_IF_ERROR(CheckRange("sampling.top_p", s.top_p(), 0, Bound::kExcluded, 1));
  }
  if (s.has_min_p()) {
    SKIM_RETURN_IF_ERROR(CheckRange("sampling.min_p", s.min_p(), 0, Bound::kIncluded, 1));
  }
  if (s.has_repetition_penalty()) {
    SKIM_RETURN_IF_ERROR(CheckRange("sampling.repetition_penalty", s.repetition_penalty(), 0,
                                    Bound::kExcluded, kInf));
  }
  if (s.has_frequency_penalty()) {
    SKIM_RETURN_IF_ERROR(
        CheckRange("sampling.frequency_penalty", s.frequency_penalty(), -2, Bound::kIncluded, 2));
  }
  if (s.has_presence_penalty()) {
    SKIM_RETURN_IF_ERROR(
        CheckRange("sampling.presence_penalty", s.presence_penalty(), -2, Bound::kIncluded, 2));
  }
  return absl::OkStatus();
}

absl::Status CheckLists(const v1::Sampling& s, const ModelInfo& model) {
  SKIM_RETURN_IF_ERROR(
      CheckAtMost("sampling.stop", s.stop_size(), kMaxStopStrings, "stop strings"));
  for (int i = 0; i < s.stop_size(); ++i) {
    const std::string field = "sampling.stop[" + std::to_string(i) + "]";
    if (s.stop(i).empty()) return InvalidField(field, "must not be empty");
    SKIM_RETURN_IF_ERROR(CheckAtMost(field.c_str(), s.stop(i).size(), kMaxStopBytes, "bytes"));
  }
  SKIM_RETURN_IF_ERROR(CheckAtMost("sampling.stop_token_ids", s.stop_token_ids_size(),
                                   kMaxStopTokens, "stop tokens"));
  for (int i = 0; i < s.stop_token_ids_size(); ++i) {
    SKIM_RETURN_IF_ERROR(CheckToken("sampling.stop_token_ids[" + std::to_string(i) + "]",
                                    s.stop_token_ids(i), model));
  }
  for (int i = 0; i < s.forced_token_ids_size(); ++i) {
    SKIM_RETURN_IF_ERROR(CheckToken("sampling.forced_token_ids[" + std::to_string(i) + "]",
                                    s.forced_token_ids(i), model));
  }
  SKIM_RETURN_IF_ERROR(
      CheckAtMost("sampling.logit_bias", s.logit_bias().size(), kMaxLogitBiases, "entries"));
  for (const auto& [id, bias] : s.logit_bias()) {
    const std::string field = "sampling.logit_bias[" + std::to_string(id) + "]";
    SKIM_RETURN_IF_ERROR(CheckToken(field, id, model));
    if (!std::isfinite(bias)) return InvalidField(field, "must be a finite number");
  }
  return absl::OkStatus();
}

absl::Status CheckCounts(const v1::Sampling& s, const RequestLimits& limits) {
  if (s.has_max_tokens() && s.max_tokens() == 0) {
    return InvalidField("sampling.max_tokens", "must be at least 1");
  }
  if (limits.max_output_tokens > 0) {
    SKIM_RETURN_IF_ERROR(
        CheckAtMost("sampling.max_tokens", s.max_tokens(), limits.max_output_tokens, "tokens"));
  }
  if (s.has_max_tokens() && s.min_tokens() > s.max_tokens()) {
    return InvalidField("sampling.min_tokens", std::to_string(s.min_tokens()) +
                                                   " is more than max_tokens, " +
                                                   std::to_string(s.max_tokens()));
  }
  if (s.has_n() && s.n() == 0) return InvalidField("sampling.n", "must be at least 1");
  return CheckAtMost("sampling.n", s.n(), limits.max_n, "choices");
}

absl::Status CheckOutput(const v1::Output& output) {
  SKIM_RETURN_IF_ERROR(
      CheckAtMost("output.logprobs", output.logprobs(), kMaxTopLogprobs, "alternatives"));
  if (output.prompt_logprobs() && !output.has_logprobs()) {
    return InvalidField("output.prompt_logprobs", "needs output.logprobs to be set as well");
  }
  return absl::OkStatus();
}

// After max_tokens and the stop tokens are known.
absl::Status BuildForced(const v1::Sampling& s, SamplingParams* p) {
  SKIM_RETURN_IF_ERROR(CheckAtMost("sampling.forced_token_ids", s.forced_token_ids_size(),
                                   p->max_tokens, "forced tokens"));
  p->forced.assign(s.forced_token_ids().begin(), s.forced_token_ids().end());
  for (size_t i = 0; i < p->forced.size(); ++i) {
    if (!std::ranges::binary_search(p->stop_tokens, p->forced[i])) continue;
    return InvalidField("sampling.forced_token_ids[" + std::to_string(i) + "]",
                        "token " + std::to_string(p->forced[i]) +
                            " ends this request; set ignore_eos or leave it out");
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status CheckSampling(const v1::Sampling& sampling, const v1::Output& output,
                           const ModelInfo& model, const RequestLimits& limits) {
  SKIM_RETURN_IF_ERROR(CheckNumbers(sampling));
  SKIM_RETURN_IF_ERROR(CheckLists(sampling, model));
  SKIM_RETURN_IF_ERROR(CheckCounts(sampling, limits));
  return CheckOutput(output);
}

absl::StatusOr<SamplingParams> BuildSampling(const v1::Sampling& s, const v1::Output& output,
                                             const ModelInfo& model, const RequestLimits& limits,
                                             int32_t prompt_tokens, uint64_t drawn_seed) {
  SamplingParams p;
  // Comparisons that a NaN fails: unset in generation_config.json means the neutral value.
  const float default_temperature = model.default_temperature >= 0 ? model.default_temperature : 1;
  const float default_top_p = model.default_top_p > 0 ? model.default_top_p : 1;
  p.temperature = s.has_temperature() ? s.temperature() : default_temperature;
  p.top_p = s.has_top_p() ? s.top_p() : default_top_p;
  p.min_p = s.min_p();
  const uint32_t default_top_k = std::max(0, model.default_top_k);
  // Beyond the vocabulary top-k cuts nothing, which is also what 0 says.
  const uint32_t top_k = s.has_top_k() ? s.top_k() : default_top_k;
  p.top_k = top_k < static_cast<uint32_t>(model.vocabulary) ? static_cast<int32_t>(top_k) : 0;
  if (s.has_repetition_penalty()) p.repetition_penalty = s.repetition_penalty();
  p.frequency_penalty = s.frequency_penalty();
  p.presence_penalty = s.presence_penalty();
  for (const auto& [id, bias] : s.logit_bias()) {
    p.bias.push_back({static_cast<TokenId>(id), bias});
  }
  // Map order is random; the arithmetic below must not be.
  std::ranges::sort(p.bias, {}, &LogitBias::token);
  p.seed = s.has_seed() ? s.seed() : drawn_seed;

  const uint32_t room = static_cast<uint32_t>(model.max_context - prompt_tokens);
  uint32_t max_tokens = s.has_max_tokens() ? s.max_tokens() : room;
  if (limits.max_output_tokens > 0) {
    max_tokens = std::min<uint32_t>(max_tokens, limits.max_output_tokens);
  }
  p.max_tokens = static_cast<int32_t>(std::min(max_tokens, room));
  if (s.min_tokens() > static_cast<uint32_t>(p.max_tokens)) {
    return FieldError(absl::StatusCode::kOutOfRange, "sampling.min_tokens",
                      std::to_string(s.min_tokens()) +
                          " tokens were asked for; there is room for " +
                          std::to_string(p.max_tokens));
  }
  p.min_tokens = static_cast<int32_t>(s.min_tokens());

  p.stop_tokens.assign(s.stop_token_ids().begin(), s.stop_token_ids().end());
  if (!s.ignore_eos()) {
    p.stop_tokens.insert(p.stop_tokens.end(), model.eos_tokens.begin(), model.eos_tokens.end());
  }
  std::ranges::sort(p.stop_tokens);
  p.stop_tokens.erase(std::unique(p.stop_tokens.begin(), p.stop_tokens.end()), p.stop_tokens.end());
  SKIM_RETURN_IF_ERROR(BuildForced(s, &p));
  p.top_logprobs = output.has_logprobs() ? static_cast<int32_t>(output.logprobs()) : -1;
  p.prompt_logprobs = output.prompt_logprobs();
  return p;
}

}  // namespace skim
