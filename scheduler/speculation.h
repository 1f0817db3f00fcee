// The rounds of one speculating sequence: propose, draw the drafts pass by pass, verify.
// Loop thread only.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "base/types.h"
#include "engine/step_plan.h"
#include "kernels/sampling.h"
#include "scheduler/acceptance.h"
#include "scheduler/drafter.h"
#include "scheduler/speculation_policy.h"

namespace skim {

struct DraftCounts {
  int32_t rounds = 0;    // steps that verified drafts
  int32_t drafted = 0;   // tokens verified
  int32_t accepted = 0;  // of those, part of the output
  int32_t passes = 0;    // draft rows run
  int64_t layers = 0;    // of the served model, that they ran, all of them
  // Of the draft model: rows that it ran only to know the text, and steps with nothing but those.
  int64_t catch_up_rows = 0;
  int32_t catch_ups = 0;
  int32_t tokens = 0;  // of the output, that the rounds yielded
};

// What speculation came to; part of Finish.
struct SpeculationReport {
  DrafterKind drafter = DrafterKind::kNone;               // as asked for
  std::array<DraftCounts, kDraftSources> by_source = {};  // whose drafts they were
  // By position in the round: drafts verified, and of those the accepted.
  std::array<int32_t, kMaxDrafts> drafted_at = {};
  std::array<int32_t, kMaxDrafts> accepted_at = {};

  DraftCounts total() const;
};

class Speculation {
 public:
  // `sampling` and what is borrowed in `context` outlive this.
  Speculation(const SpeculationPolicy& policy, const SamplingParams& sampling,
              const DraftContext& context);

  // --- before a step is planned ---
  // Whether somebody is to take from the offers, if anything is.
  bool uses_head() const { return policy_.uses_head(); }
  // Where the hidden row behind the last known token's predecessor is kept for the draft head;
  // negative: nowhere, so that the head proposes nothing.
  void SetFeatureRow(int32_t row) { feature_row_ = row; }
  int32_t feature_row() const { return feature_row_; }
  // --- the draft model: runs every known token itself, in its own time ---
  // It drafts while it lacks at most so many known tokens: its first pass runs those, too.
  static constexpr int32_t kMostLag = 16;
  // It catches up with so many tokens at most for each that is still to come: drafts of fewer would
  // not earn it.
  static constexpr int32_t kMostCatchUpPerToken = 32;
  // Pages are taken from it where others need them; it begins anew so often, then it gives up.
  static constexpr int32_t kMostEvictions = 2;
  bool uses_draft_model() const {
    return policy_.uses_draft_model() && draft_context_ > 0 && !stopped_ &&
           evictions_ <= kMostEvictions;
  }
  // Its K/V are those of the first so many known tokens, then of the round's drafts.
  int32_t draft_model_computed() const { return draft_model_computed_; }
  // Known tokens, after the last Propose, that it has to run before it can draft; 0 where it lacks
  // few, or is not to draft. All but the last: that it runs to draft.
  int32_t catch_up() const { return catch_up_; }
  void LimitCatchUp(int32_t most) { catch_up_ = std::min(catch_up_, most); }
  // It has run `rows` more, from `draws` of which a draft is drawn.
  void DraftModelRan(int32_t rows, int32_t draws);
  // Its K/V are gone, with all of the sequence's or alone.
  void ForgetDraftModel() { draft_model_computed_ = catch_up_ = 0; }
  void EvictDraftModel();

  bool automatic() const { return policy_.drafter == DrafterKind::kAuto; }
  // Asks for at most `most` drafts behind `tokens`; none if <= 0. If automatic, all drafters'
  // are offers; else the first's that has any are what the next round would verify.
  void Propose(std::span<const TokenId> tokens, int32_t most);
  std::span<const DraftProposal> offers() const { return offers_; }
  // The next round would verify the first `drafts` of this offer. Once after Propose.
  void Take(size_t offer, int32_t drafts);
  int32_t wanted() const { return proposal_.size(); }
  bool proposes_passes() const { return proposal_.passes > 0; }
  bool proposes_draft_model() const { return proposes_passes() && row().by_draft_model(); }
  int32_t first_pass_rows() const { return proposal_.first_rows; }

  // --- the round ---
  void Begin(int32_t drafts);  // [0, wanted()]
  // Between Begin and End; not after a Begin of no drafts.
  bool in_round() const { return in_round_; }
  // Another draft pass is due.
  bool drafting() const { return passes_left_ > 0; }
  // How its row runs, and those that ran before it in this round.
  const DraftRow& row() const { return proposal_.row; }
  // The parameters a draft is drawn with: the request's, and its probability where that matters.
  const SamplingParams& draft_sampling() const { return draft_sampling_; }
  // What the pass drew. No usable draw ends the drafting, not the request. A pending token is a
  // draft as any other until it is settled.
  void AddDraft(const SampledToken& drawn);
  // Whether the next pass can do without knowing what this one draws.
  bool may_put_off() const { return policy_.stop_confidence <= 0 && !sampling_.HasPenalties(); }
  // Pending tokens, by number. Of the drafts those remain that would have been drawn if each had
  // been waited for.
  void Settle(std::span<const SampledToken> drawn);
  // To be verified.
  std::span<const TokenId> drafts() const { return drafts_; }
  // Of a round that yields `tokens` tokens, how many drafts the model has judged: none behind the
  // last draft, and none that a run ends before.
  int32_t Judged(int32_t tokens) const;
  // The round yields `tokens` tokens, and the first `accepted` of the drafts are the first of them.
  void End(int32_t tokens, int32_t accepted);

  // The logits of a verify row were not finite. Whether plain decoding would have met them is
  // unknown: this sequence goes on without drafts.
  void Stop() {
    stopped_ = true;
    ForgetDraftModel();
  }

  // Of the round's drafts, and how often this request's drafts of a source were right.
  size_t source() const { return proposal_.source(); }
  const Acceptance& acceptance(size_t source) const { return acceptance_[source]; }

  const SpeculationReport& report() const { return report_; }

 private:
  static bool Usable(const SampledToken& drawn) { return drawn.finite && drawn.token >= 0; }
  // Nothing follows it.
  bool Stops(TokenId token) const;
  // Whether it can draft so many now, and with how many rows first.
  bool FitDraftModel(int32_t known, DraftProposal* proposal) const;

  const SpeculationPolicy policy_;
  const SamplingParams& sampling_;
  SamplingParams draft_sampling_;
  const std::vector<std::unique_ptr<Drafter>> drafters_;
  std::vector<DraftProposal> offers_;
  DraftProposal proposal_;
  std::array<Acceptance, kDraftSources> acceptance_;
  std::vector<TokenId> drafts_;
  int32_t feature_row_ = kNoFeatures;
  const int32_t draft_context_;  // of the draft model; 0: there is none
  int32_t draft_model_computed_ = 0;
  int32_t catch_up_ = 0;
  int32_t evictions_ = 0;
  int32_t known_ = 0;  // tokens, at the last Propose
  bool in_round_ = false;
  int32_t passes_left_ = 0;
  bool stopped_ = false;
  SpeculationReport report_;
};

}  // namespace skim
