#include "server/build_prefill.h"

#include <algorithm>
#include <optional>
#include <string>

#include "base/status_macros.h"
#include "server/rpc_status.h"

namespace skim {
namespace {

constexpr uint32_t kMaxScoreWindow = 64;
constexpr int kMaxPinned = 64;

std::string ProfileNames(const LazyConfig& config) {
  std::string names;
  for (const PruneProfile& profile : config.profiles) {
    if (!config.Serves(profile)) continue;
    names += (names.empty() ? "" : ", ") + profile.name;
  }
  return names.empty() ? "none" : names;
}

// Keep ratios, decode mode, budget and window of the profile, or those of no profile.
absl::Status FillFromProfile(const v1::PrefillPolicy::Lazy& lazy, const LazyConfig& config,
                             PrefillPolicy* policy) {
  if (lazy.profile().empty()) {
    if (!lazy.keep_ratio().empty()) return absl::OkStatus();
    return InvalidField("prefill.lazy.profile",
                        "give a profile or keep_ratio; the profiles are " + ProfileNames(config));
  }
  const PruneProfile* profile = config.Find(lazy.profile());
  if (profile == nullptr && std::ranges::count(kScoutProfiles, lazy.profile()) > 0) {
    return FieldError(absl::StatusCode::kFailedPrecondition, "prefill.lazy.profile",
                      "needs scouts at an early boundary, and this model has none (skim_lazy.json; "
                      "made by ./run calibrate --predictors and ./run calibrate --scouts)");
  }
  if (profile == nullptr) {
    return InvalidField("prefill.lazy.profile",
                        "is not served for this model; the profiles are " + ProfileNames(config));
  }
  policy->keep = profile->keep;
  policy->decode = profile->decode;
  policy->revival_budget = profile->revival_budget;
  policy->rules.window = profile->window;
  policy->look_back = profile->look_back;
  return absl::OkStatus();
}

absl::Status FillKeepRatio(const v1::PrefillPolicy::Lazy& lazy, const LazyConfig& config,
                           PrefillPolicy* policy) {
  if (lazy.keep_ratio().empty()) return absl::OkStatus();
  if (lazy.keep_ratio_size() != static_cast<int>(config.boundaries.size())) {
    return InvalidField("prefill.lazy.keep_ratio",
                        "needs one value for each of the model's " +
                            std::to_string(config.boundaries.size()) + " boundaries");
  }
  float before = 1;
  for (const float keep : lazy.keep_ratio()) {
    if (!(keep > 0 && keep <= 1)) {
      return InvalidField("prefill.lazy.keep_ratio", "must be in (0, 1]");
    }
    if (keep > before) {
      return InvalidField("prefill.lazy.keep_ratio",
                          "must not rise: what was cut below is not there above");
    }
    before = keep;
  }
  policy->keep.assign(lazy.keep_ratio().begin(), lazy.keep_ratio().end());
  return absl::OkStatus();
}

// `asked` in place of the profile's `budget`, which is cut to `most`. `refusal` says why there can be
// none in this mode; null: there can.
absl::Status FillBudget(const char* field, std::optional<uint32_t> asked, int64_t most,
                        const char* refusal, int32_t* budget) {
  if (asked.has_value()) {
    if (refusal != nullptr && *asked > 0) return InvalidField(field, refusal);
    if (*asked > most) return InvalidField(field, "must be at most " + std::to_string(most));
    *budget = static_cast<int32_t>(*asked);
  }
  *budget = refusal != nullptr ? 0 : static_cast<int32_t>(std::min<int64_t>(*budget, most));
  return absl::OkStatus();
}

absl::Status FillDecode(const v1::PrefillPolicy::Lazy& lazy, const RequestLimits& limits,
                        PrefillPolicy* policy) {
  switch (lazy.decode_mode()) {
    case v1::PrefillPolicy::DECODE_MODE_UNSPECIFIED:
      break;
    case v1::PrefillPolicy::DECODE_MODE_STATIC:
      policy->decode = DecodeMode::kStatic;
      break;
    case v1::PrefillPolicy::DECODE_MODE_LAZY:
      policy->decode = DecodeMode::kLazy;
      break;
    case v1::PrefillPolicy::DECODE_MODE_STRICT:
      policy->decode = DecodeMode::kStrict;
      break;
    case v1::PrefillPolicy::DECODE_MODE_PHANTOM:
      policy->decode = DecodeMode::kPhantom;
      break;
    case v1::PrefillPolicy::DECODE_MODE_LATE:
      policy->decode = DecodeMode::kLate;
      break;
    default:
      return InvalidField("prefill.lazy.decode_mode",
                          "unknown value " + std::to_string(lazy.decode_mode()));
  }
  int64_t cuts = 0;
  float before = 1;
  for (const float keep : policy->keep) {
    cuts += keep < before;
    before = keep;
  }
  const int64_t most = limits.max_revival_rows / std::max<int64_t>(1, cuts);
  std::optional<uint32_t> revival_budget, look_back;
  if (lazy.has_revival_budget()) revival_budget = lazy.revival_budget();
  if (lazy.has_look_back()) look_back = lazy.look_back();
  const char* none =
      Revives(policy->decode) ? nullptr : "nothing is revived in static or phantom mode";
  SKIM_RETURN_IF_ERROR(FillBudget("prefill.lazy.revival_budget", revival_budget, most, none,
                                  &policy->revival_budget));
  none = policy->decode == DecodeMode::kLate ? nullptr : "only late mode brings tokens back so";
  return FillBudget("prefill.lazy.look_back", look_back, most, none, &policy->look_back);
}

// A model without predictors can do without phantoms only, whoever sees them.
absl::Status CheckPredicted(const v1::PrefillPolicy::Lazy& lazy, const LazyConfig& config,
                            const PrefillPolicy& policy) {
  const int32_t boundary = config.FirstUnpredicted(policy.keep, policy.decode);
  if (boundary == 0) return absl::OkStatus();
  const bool phantom = SeesPhantoms(policy.decode);
  const bool by_name = lazy.decode_mode() == v1::PrefillPolicy::DECODE_MODE_UNSPECIFIED;
  const char* field = phantom && !by_name         ? "prefill.lazy.decode_mode"
                      : lazy.keep_ratio().empty() ? "prefill.lazy.profile"
                                                  : "prefill.lazy.keep_ratio";
  return FieldError(absl::StatusCode::kFailedPrecondition, field,
                    std::string(phantom ? "phantoms" : "scouts") +
                        " need predicted keys and values, and this model has no predictors "
                        "above layer " +
                        std::to_string(boundary) +
                        " (skim_predictors.safetensors, made by ./run calibrate --predictors)");
}

absl::Status FillPinned(const v1::PrefillPolicy::Lazy& lazy, int32_t prompt_tokens,
                        PrefillPolicy* policy) {
  if (lazy.pinned_size() > kMaxPinned) {
    return InvalidField("prefill.lazy.pinned",
                        "at most " + std::to_string(kMaxPinned) + " spans can be pinned");
  }
  std::vector<IndexRange>& pinned = policy->rules.pinned;
  for (int i = 0; i < lazy.pinned_size(); ++i) {
    const v1::PrefillPolicy::Span& span = lazy.pinned(i);
    if (span.begin() >= span.end() || span.end() > static_cast<uint32_t>(prompt_tokens)) {
      return InvalidField("prefill.lazy.pinned[" + std::to_string(i) + "]",
                          "is no span of the prompt's " + std::to_string(prompt_tokens) + " tokens");
    }
    pinned.push_back({static_cast<int32_t>(span.begin()), static_cast<int32_t>(span.end())});
  }
  std::ranges::sort(pinned, {}, &IndexRange::begin);
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<PrefillPolicy> BuildPrefill(const v1::GenerateRequest& request,
                                           const ServedModel& model, int32_t prompt_tokens) {
  PrefillPolicy policy;
  if (!request.prefill().has_lazy()) return policy;
  const v1::PrefillPolicy::Lazy& lazy = request.prefill().lazy();
  const LazyConfig& config = model.info->lazy;
  if (config.boundaries.empty()) {
    return FieldError(absl::StatusCode::kUnimplemented, "prefill.lazy",
                      "this server does not prune prompts");
  }
  if (request.output().prompt_logprobs()) {
    return InvalidField("output.prompt_logprobs", "a pruned prompt has no log-probabilities");
  }
  SKIM_RETURN_IF_ERROR(FillFromProfile(lazy, config, &policy));
  SKIM_RETURN_IF_ERROR(FillKeepRatio(lazy, config, &policy));
  SKIM_RETURN_IF_ERROR(FillDecode(lazy, model.limits, &policy));
  SKIM_RETURN_IF_ERROR(CheckPredicted(lazy, config, policy));
  SKIM_RETURN_IF_ERROR(FillPinned(lazy, prompt_tokens, &policy));
  if (lazy.has_score_window()) {
    if (lazy.score_window() < 1 || lazy.score_window() > kMaxScoreWindow) {
      return InvalidField("prefill.lazy.score_window",
                          "must be in [1, " + std::to_string(kMaxScoreWindow) + "]");
    }
    policy.rules.window = static_cast<int32_t>(lazy.score_window());
  }
  policy.min_prompt = model.limits.min_lazy_tokens;
  return policy;
}

}  // namespace skim
