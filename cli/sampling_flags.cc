#include "cli/sampling_flags.h"

#include "absl/strings/numbers.h"
#include "cli/speculation_flag.h"
#include "cli/weight_format_name.h"

namespace skim {
namespace {

absl::Status FillLogitBias(const std::vector<std::string>& pairs, v1::Sampling* sampling) {
  for (const std::string& pair : pairs) {
    const size_t split = pair.find('=');
    uint32_t id = 0;
    float bias = 0;
    if (split == std::string::npos || !absl::SimpleAtoi(pair.substr(0, split), &id) ||
        !absl::SimpleAtof(pair.substr(split + 1), &bias)) {
      return absl::InvalidArgumentError("--logit-bias: '" + pair + "' is not TOKEN_ID=BIAS");
    }
    if (!sampling->mutable_logit_bias()->insert({id, bias}).second) {
      return absl::InvalidArgumentError("--logit-bias: token " + pair.substr(0, split) +
                                        " is given twice");
    }
  }
  return absl::OkStatus();
}

}  // namespace

void SamplingFlags::Register(CLI::App* command) {
  command->add_option("--max-tokens", max_tokens_, "Generate at most this many tokens");
  command->add_option("--min-tokens", min_tokens_, "Do not stop before this many tokens");
  command->add_option("--temperature", temperature_, "0 = always the most likely token");
  command->add_option("--top-k", top_k_, "Choose among the K most likely (0 = off)");
  command->add_option("--top-p", top_p_, "Choose among the most likely with this total, (0, 1]");
  command->add_option("--min-p", min_p_, "Drop what is this much less likely than the best");
  command->add_option("--repetition-penalty", repetition_penalty_, "> 0; 1 = off");
  command->add_option("--frequency-penalty", frequency_penalty_, "[-2, 2]; 0 = off");
  command->add_option("--presence-penalty", presence_penalty_, "[-2, 2]; 0 = off");
  // A repeated flag takes one value each time, or it would swallow the prompt.
  command->add_option("--logit-bias", logit_bias_, "TOKEN_ID=BIAS, added to its logit; repeat")
      ->allow_extra_args(false);
  command->add_option("--seed", seed_, "The same seed gives the same text")
      ->check(CLI::NonNegativeNumber);  // or -1 would silently become 2^64 - 1
  command->add_option("--stop", stop_, "End before this string; repeat")->allow_extra_args(false);
  command->add_option("--stop-token", stop_token_ids_, "End at this token id; repeat")
      ->allow_extra_args(false);
  command->add_flag("--ignore-eos", ignore_eos_, "Run on past the model's end token");
  command->add_option("--priority", priority_, "Higher runs first");
  command->add_option("--tenant", tenant_, "Whose fair share this counts on");
  command->add_option("--cache-salt", cache_salt_, "Share cached prompts within this salt only");
  command->add_option("--time-limit-ms", time_limit_ms_, "Deliver what is there by then");
  command->add_option("--request-id", request_id_, "Name of the request in the server's log");
  command->add_option("--prefill", prefill_,
                      "exact, or a profile by which the server prunes long prompts: safe, fast, "
                      "aggressive, phantom, scout-safe, scout-fast, paper, or one of its own");
  command->add_option("--keep-ratio", keep_ratio_,
                      "Share of the prompt that goes on above each of the model's boundaries, as "
                      "1,0.3,0.1,0.1; instead of the profile's")
      ->delimiter(',')
      ->allow_extra_args(false);
  command->add_option("--speculation", speculation_, kSpeculationHelp);
  command->add_option("--max-draft-tokens", max_draft_tokens_, "Guess at most this many a step");
  command->add_option("--stop-confidence", stop_confidence_,
                      "Guess no further behind a guess of less probability, [0, 1]");
  command->add_option("--weights", weights_,
                      "bf16, fp8, int8 or int4, if the daemon holds it (see skim model)");
}

absl::Status SamplingFlags::Fill(v1::GenerateRequest* request) const {
  v1::Sampling* sampling = request->mutable_sampling();
  if (max_tokens_) sampling->set_max_tokens(*max_tokens_);
  if (min_tokens_) sampling->set_min_tokens(*min_tokens_);
  if (temperature_) sampling->set_temperature(*temperature_);
  if (top_k_) sampling->set_top_k(*top_k_);
  if (top_p_) sampling->set_top_p(*top_p_);
  if (min_p_) sampling->set_min_p(*min_p_);
  if (repetition_penalty_) sampling->set_repetition_penalty(*repetition_penalty_);
  if (frequency_penalty_) sampling->set_frequency_penalty(*frequency_penalty_);
  if (presence_penalty_) sampling->set_presence_penalty(*presence_penalty_);
  if (seed_) sampling->set_seed(*seed_);
  for (const std::string& stop : stop_) sampling->add_stop(stop);
  for (const uint32_t id : stop_token_ids_) sampling->add_stop_token_ids(id);
  if (ignore_eos_) sampling->set_ignore_eos(true);
  if (priority_) request->set_priority(*priority_);
  if (tenant_) request->set_tenant(*tenant_);
  if (cache_salt_) request->set_cache_salt(*cache_salt_);
  if (time_limit_ms_) request->set_time_limit_ms(*time_limit_ms_);
  if (request_id_) request->set_request_id(*request_id_);
  if (weights_) {
    const auto format = ParseWeightFormat(*weights_);
    if (!format) {
      return absl::InvalidArgumentError("--weights: '" + *weights_ +
                                        "' is not bf16, fp8, int8 or int4");
    }
    request->set_weights(*format);
  }
  if (speculation_) {
    const absl::Status status = ParseSpeculation(*speculation_, request->mutable_speculation());
    if (!status.ok()) return status;
  }
  if (max_draft_tokens_) {
    request->mutable_speculation()->set_max_draft_tokens(*max_draft_tokens_);
  }
  if (stop_confidence_) request->mutable_speculation()->set_stop_confidence(*stop_confidence_);
  if (prefill_ == "exact") {
    if (!keep_ratio_.empty()) {
      return absl::InvalidArgumentError("--keep-ratio: nothing is cut with --prefill exact");
    }
    request->mutable_prefill()->mutable_exact();
  } else if (prefill_ || !keep_ratio_.empty()) {
    v1::PrefillPolicy::Lazy* lazy = request->mutable_prefill()->mutable_lazy();
    if (prefill_) lazy->set_profile(*prefill_);
    for (const float keep : keep_ratio_) lazy->add_keep_ratio(keep);
  }
  return FillLogitBias(logit_bias_, sampling);
}

}  // namespace skim
