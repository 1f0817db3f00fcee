// The rounds of one speculating sequence: propose, draw the drafts pass by pass, verify.
// Loop thread only.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "base/types.h"
#include "kernels/sampling.h"
#include "scheduler/drafter.h"
#include "scheduler/speculation_policy.h"

namespace skim {

struct DraftCounts {
  int32_t rounds = 0;    // steps that verified drafts
  int32_t drafted = 0;   // tokens verified
  int32_t accepted = 0;  // of those, part of the output
};

// What speculation came to; part of Finish.
struct SpeculationReport {
  DrafterKind drafter = DrafterKind::kNone;                // as asked for
  std::array<DraftCounts, kDrafterKinds> by_drafter = {};  // whose drafts they were
  int32_t passes = 0;                                      // draft rows run
  // By position in the round: drafts verified, and of those the accepted.
  std::array<int32_t, kMaxDrafts> drafted_at = {};
  std::array<int32_t, kMaxDrafts> accepted_at = {};

  DraftCounts total() const;
};

class Speculation {
 public:
  // `sampling` outlives this.
  Speculation(const SpeculationPolicy& policy, const SamplingParams& sampling);

  // --- before a step is planned ---
  // What the next round would verify: at most `most` drafts behind `tokens`; none if <= 0.
  void Propose(std::span<const TokenId> tokens, int32_t most);
  int32_t wanted() const { return proposal_.size(); }
  bool proposes_passes() const { return proposal_.passes > 0; }

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
  // What the pass drew. No usable draw ends the drafting, not the request.
  void AddDraft(const SampledToken& drawn);
  // To be verified.
  std::span<const TokenId> drafts() const { return drafts_; }
  // The first `accepted` of the drafts are output.
  void End(int32_t accepted);

  // The logits of a verify row were not finite. Whether plain decoding would have met them is
  // unknown: this sequence goes on without drafts.
  void Stop() { stopped_ = true; }

  const SpeculationReport& report() const { return report_; }

 private:
  const SpeculationPolicy policy_;
  const SamplingParams& sampling_;
  SamplingParams draft_sampling_;
  const std::unique_ptr<Drafter> drafter_;
  DraftProposal proposal_;
  std::vector<TokenId> drafts_;
  bool in_round_ = false;
  int32_t passes_left_ = 0;
  bool stopped_ = false;
  SpeculationReport report_;
};

}  // namespace skim
