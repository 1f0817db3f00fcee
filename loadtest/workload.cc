#include "loadtest/workload.h"

#include <algorithm>
#include <string>
#include <utility>

#include "loadtest/malformed.h"

namespace skim {
namespace {

constexpr Micros kLatestCancel = 100'000;

}  // namespace

absl::StatusOr<Workload> Workload::Make(WorkloadOptions options) {
  const double shares[] = {options.cancel_share, options.slow_share, options.malformed_share};
  double sum = 0;
  for (const double share : shares) {
    if (!(share >= 0 && share <= 1)) {
      return absl::InvalidArgumentError("a share must be between 0 and 1");
    }
    sum += share;
  }
  if (sum > 1 + 1e-9) {
    return absl::InvalidArgumentError("the cancel, slow and malformed shares exceed 1 together");
  }
  if (options.vocabulary == 0 || options.max_context < 2) {
    return absl::InvalidArgumentError("the server tells no vocabulary or no context");
  }
  if (options.shared_prefix_tokens < 0 || options.shared_prefix_tokens +
                                                  options.prompt_tokens.longest() +
                                                  options.output_tokens.longest() >
                                              int64_t{options.max_context}) {
    return absl::InvalidArgumentError(
        "the longest prompt with the longest output does not fit the model's context of " +
        std::to_string(options.max_context) + " tokens");
  }
  return Workload(std::move(options));
}

Workload::Workload(WorkloadOptions options) : options_(std::move(options)), random_(options_.seed) {
  v1::TokenIds prefix;
  FillPrompt(options_.shared_prefix_tokens, &prefix);
  shared_prefix_.assign(prefix.ids().begin(), prefix.ids().end());
}

void Workload::FillPrompt(int64_t length, v1::TokenIds* prompt) {
  if (options_.text_ids.empty()) {
    std::uniform_int_distribution<uint32_t> id(0, options_.vocabulary - 1);
    for (int64_t i = 0; i < length; ++i) prompt->add_ids(id(random_));
    return;
  }
  const std::vector<uint32_t>& text = options_.text_ids;
  size_t at = std::uniform_int_distribution<size_t>(0, text.size() - 1)(random_);
  for (int64_t i = 0; i < length; ++i, at = (at + 1) % text.size()) prompt->add_ids(text[at]);
}

Behaviour Workload::DrawBehaviour() {
  const double drawn = std::uniform_real_distribution<double>(0, 1)(random_);
  if (drawn < options_.malformed_share) return Behaviour::kMalformed;
  if (drawn < options_.malformed_share + options_.cancel_share) return Behaviour::kCancel;
  if (drawn < options_.malformed_share + options_.cancel_share + options_.slow_share) {
    return Behaviour::kSlowReader;
  }
  return Behaviour::kNormal;
}

PlannedRequest Workload::Next() {
  PlannedRequest planned;
  planned.behaviour = DrawBehaviour();
  v1::GenerateRequest& request = planned.request;
  request.mutable_token_ids()->mutable_ids()->Add(shared_prefix_.begin(), shared_prefix_.end());
  FillPrompt(options_.prompt_tokens.Draw(&random_), request.mutable_token_ids());
  const auto output_tokens = static_cast<uint32_t>(options_.output_tokens.Draw(&random_));
  request.mutable_sampling()->set_max_tokens(output_tokens);
  request.mutable_sampling()->set_ignore_eos(true);
  request.mutable_sampling()->set_temperature(options_.temperature);
  request.mutable_sampling()->set_seed(options_.seed + next_);
  if (!options_.prefill.empty()) {
    request.mutable_prefill()->mutable_lazy()->set_profile(options_.prefill);
  }
  if (options_.speculation.drafter_case() != v1::Speculation::DRAFTER_NOT_SET) {
    *request.mutable_speculation() = options_.speculation;
  }
  if (!options_.weights.empty()) {
    request.set_weights(options_.weights[next_ % options_.weights.size()]);
  }
  request.set_request_id("load-" + std::to_string(next_++));

  if (planned.behaviour == Behaviour::kCancel) {
    // 0 tokens in part of them: cancelled while waiting, or in the middle of the prompt.
    planned.cancel_after_tokens =
        std::uniform_int_distribution<uint32_t>(0, std::min(output_tokens - 1, 8u))(random_);
    planned.cancel_after = std::uniform_int_distribution<Micros>(0, kLatestCancel)(random_);
  } else if (planned.behaviour == Behaviour::kSlowReader) {
    planned.read_delay = options_.read_delay;
  } else if (planned.behaviour == Behaviour::kMalformed) {
    planned.malformed_kind =
        std::uniform_int_distribution<size_t>(0, MalformedKinds() - 1)(random_);
    BreakRequest(planned.malformed_kind, options_.vocabulary, options_.max_context, &request);
  }
  return planned;
}

}  // namespace skim
