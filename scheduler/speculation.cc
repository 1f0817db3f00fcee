#include "scheduler/speculation.h"

#include <algorithm>
#include <cmath>

#include "base/check.h"

namespace skim {

DraftCounts SpeculationReport::total() const {
  DraftCounts total;
  for (const DraftCounts& counts : by_drafter) {
    total.rounds += counts.rounds;
    total.drafted += counts.drafted;
    total.accepted += counts.accepted;
  }
  return total;
}

Speculation::Speculation(const SpeculationPolicy& policy, const SamplingParams& sampling)
    : policy_(policy),
      sampling_(sampling),
      draft_sampling_(sampling),
      drafter_(MakeDrafter(policy)) {
  SKIM_CHECK(drafter_ != nullptr && policy.max_drafts >= 1 && policy.max_drafts <= kMaxDrafts);
  draft_sampling_.top_logprobs = policy.stop_confidence > 0 ? 0 : -1;
  report_.drafter = policy.drafter;
}

void Speculation::Propose(std::span<const TokenId> tokens, int32_t most) {
  most = std::min(most, policy_.max_drafts);
  proposal_ = most > 0 && !stopped_ ? drafter_->Propose(tokens, most) : DraftProposal();
  SKIM_CHECK(proposal_.size() <= std::max(most, 0));
}

void Speculation::Begin(int32_t drafts) {
  SKIM_CHECK(drafts <= wanted());
  in_round_ = drafts > 0;
  passes_left_ = proposes_passes() ? drafts : 0;
  drafts_.clear();
  if (!proposes_passes()) {
    drafts_.assign(proposal_.tokens.begin(), proposal_.tokens.begin() + drafts);
  }
}

void Speculation::AddDraft(const SampledToken& drawn) {
  SKIM_CHECK(drafting());
  ++report_.passes;
  --passes_left_;
  if (!drawn.finite || drawn.token < 0) {
    passes_left_ = 0;
    return;
  }
  drafts_.push_back(drawn.token);
  // Nothing follows a stop token.
  const bool stops =
      std::ranges::find(sampling_.stop_tokens, drawn.token) != sampling_.stop_tokens.end();
  const bool unsure =
      policy_.stop_confidence > 0 && std::exp(drawn.logprob) < policy_.stop_confidence;
  if (stops || unsure) passes_left_ = 0;
}

void Speculation::End(int32_t accepted) {
  const auto drafted = static_cast<int32_t>(drafts_.size());
  SKIM_CHECK(accepted <= drafted);
  DraftCounts& counts = report_.by_drafter[static_cast<size_t>(proposal_.source)];
  if (drafted > 0) ++counts.rounds;
  counts.drafted += drafted;
  counts.accepted += accepted;
  for (int32_t i = 0; i < drafted; ++i) ++report_.drafted_at[i];
  for (int32_t i = 0; i < accepted; ++i) ++report_.accepted_at[i];
  drafts_.clear();
  passes_left_ = 0;
  in_round_ = false;
}

}  // namespace skim
