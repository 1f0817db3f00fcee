#include "scheduler/speculation.h"

#include <algorithm>
#include <cmath>

#include "base/check.h"

namespace skim {

static_assert(kFeatureRows >= kMaxDrafts + 1);

DraftCounts SpeculationReport::total() const {
  DraftCounts total;
  for (const DraftCounts& counts : by_source) {
    total.rounds += counts.rounds;
    total.drafted += counts.drafted;
    total.accepted += counts.accepted;
    total.passes += counts.passes;
    total.layers += counts.layers;
    total.catch_up_rows += counts.catch_up_rows;
    total.catch_ups += counts.catch_ups;
    total.tokens += counts.tokens;
  }
  return total;
}

Speculation::Speculation(const SpeculationPolicy& policy, const SamplingParams& sampling,
                         const DraftContext& context)
    : policy_(policy),
      sampling_(sampling),
      draft_sampling_(sampling),
      drafters_(MakeDrafters(policy_, context)),
      draft_context_(context.draft_model.context) {
  SKIM_CHECK(automatic() || !drafters_.empty());
  SKIM_CHECK(policy.max_drafts >= 1 && policy.max_drafts <= kMaxDrafts);
  draft_sampling_.top_logprobs = policy.stop_confidence > 0 ? 0 : -1;
  report_.drafter = policy.drafter;
}

void Speculation::Propose(std::span<const TokenId> tokens, int32_t most) {
  const int64_t worth = int64_t{kMostCatchUpPerToken} * most;
  most = std::min(most, policy_.max_drafts);
  proposal_ = {};
  offers_.clear();
  catch_up_ = 0;
  known_ = static_cast<int32_t>(tokens.size());
  if (most <= 0 || stopped_) return;
  const int32_t lag = known_ - draft_model_computed_;
  const bool late = lag > kMostLag && lag <= worth && known_ < draft_context_;
  if (uses_draft_model() && late) catch_up_ = lag - 1;
  for (const std::unique_ptr<Drafter>& drafter : drafters_) {
    DraftProposal proposal = drafter->Propose(tokens, most);
    SKIM_CHECK(proposal.size() <= most);
    if (proposal.size() == 0) continue;
    if (proposal.source() == kHeadSource && feature_row_ < 0) continue;
    if (proposal.row.by_draft_model() && !FitDraftModel(known_, &proposal)) continue;
    offers_.push_back(std::move(proposal));
    if (!automatic()) return Take(0, offers_[0].size());
  }
}

bool Speculation::FitDraftModel(int32_t known, DraftProposal* proposal) const {
  proposal->first_rows = known - draft_model_computed_;
  // The last draft is drawn from the row of the one before it.
  proposal->passes = std::min(proposal->passes, draft_context_ - known + 1);
  return uses_draft_model() && proposal->first_rows <= kMostLag && proposal->passes > 0;
}

void Speculation::DraftModelRan(int32_t rows, int32_t draws) {
  draft_model_computed_ += rows;
  DraftCounts& counts = report_.by_source[kDraftModelSource];
  counts.catch_up_rows += rows - draws;
  counts.catch_ups += draws == 0;
}

void Speculation::EvictDraftModel() {
  draft_model_computed_ = 0;
  ++evictions_;
}

void Speculation::Take(size_t offer, int32_t drafts) {
  proposal_ = std::move(offers_[offer]);
  SKIM_CHECK(drafts >= 1 && drafts <= proposal_.size());
  if (proposal_.passes > 0) {
    proposal_.passes = drafts;
  } else {
    proposal_.tokens.resize(static_cast<size_t>(drafts));
  }
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
  SKIM_CHECK(in_round());
  DraftCounts& counts = report_.by_source[source()];
  ++counts.passes;
  if (!proposal_.row.by_draft_model()) counts.layers += proposal_.row.layers();
  if (!drafting()) return;  // behind a draft that ended the drafting once it was known
  --passes_left_;
  if (IsPending(drawn.token)) return drafts_.push_back(drawn.token);
  if (!Usable(drawn)) {
    passes_left_ = 0;
    return;
  }
  drafts_.push_back(drawn.token);
  const bool unsure =
      policy_.stop_confidence > 0 && std::exp(drawn.logprob) < policy_.stop_confidence;
  if (Stops(drawn.token) || unsure) passes_left_ = 0;
}

bool Speculation::Stops(TokenId token) const {
  return std::ranges::find(sampling_.stop_tokens, token) != sampling_.stop_tokens.end();
}

void Speculation::Settle(std::span<const SampledToken> drawn) {
  for (size_t i = 0; i < drafts_.size(); ++i) {
    if (!IsPending(drafts_[i])) continue;
    const auto number = static_cast<size_t>(PendingDraw(drafts_[i]));
    const bool usable = number < drawn.size() && Usable(drawn[number]);
    if (usable) drafts_[i] = drawn[number].token;
    if (usable && !Stops(drafts_[i])) continue;
    drafts_.resize(i + usable);
    passes_left_ = 0;
  }
}

int32_t Speculation::Judged(int32_t tokens) const {
  return std::min(static_cast<int32_t>(drafts_.size()), tokens);
}

void Speculation::End(int32_t tokens, int32_t accepted) {
  const auto drafted = static_cast<int32_t>(drafts_.size());
  const int32_t tried = Judged(tokens);
  SKIM_CHECK(accepted <= tried && tokens <= accepted + 1);
  acceptance_[source()].Add(tried, accepted);
  DraftCounts& counts = report_.by_source[source()];
  if (drafted > 0) {
    ++counts.rounds;
    counts.tokens += tokens;
  }
  counts.drafted += drafted;
  counts.accepted += accepted;
  for (int32_t i = 0; i < drafted; ++i) ++report_.drafted_at[i];
  for (int32_t i = 0; i < accepted; ++i) ++report_.accepted_at[i];
  drafts_.clear();
  passes_left_ = 0;
  in_round_ = false;
  // Of the drafts that it ran, those that the text went on with are known tokens now.
  draft_model_computed_ = std::min(draft_model_computed_, known_ + accepted);
}

}  // namespace skim
