// Speculation of sequences that leave it to the scheduler (`auto`): before each step, whose drafts
// and how many. Learns how long steps take and how often drafts are right, and takes the plan that
// pays most by both (draft_choice.h); none while prompts are computed, since a step is then as
// full as it can be, or where steps of decoding alone are.
//
// What is only expected may not come. So there is an account, in steps without drafts: a round
// that takes longer than plain steps would have for what it yields is booked out, a shorter one
// in, up to a bound, and a round may stake no more than is there. Plain steps book in kCredit of
// themselves; so losses stay below this share of the time, whatever has been expected, plus the
// account's bound once. Knows no clock: times come from the caller, and where a clock stands
// still, expected ones are booked. Loop thread only.
#pragma once

#include <array>
#include <cstdint>
#include <span>

#include "engine/step_plan.h"
#include "scheduler/acceptance.h"
#include "scheduler/draft_choice.h"
#include "scheduler/speculation.h"
#include "scheduler/step_times.h"

namespace skim {

class AutoSpeculation {
 public:
  AutoSpeculation();

  // What else is about to run.
  struct Load {
    RowsByFormat decoding = {};  // everybody's, those who ask included
    bool prompts = false;        // are computed, or wait to be
    bool others_draft = false;   // by a drafter that was asked for, or catch up for one
  };
  // Before a step is planned. Takes one of the offers of each of `asking`, which `formats` verify,
  // or none.
  void Choose(std::span<Speculation* const> asking, std::span<const WeightFormat> formats,
              const Load& load);

  // Of the step that Choose was last called for: how many known tokens draft models may run for
  // drafts to come. What that takes is booked out, so it is no more than the account has; where
  // nothing is known few are tried. None right after others, so that steps without stay known.
  int32_t CatchUpRows() const;

  // A round of `asking` has ended: of `tried` drafts of its source, `accepted` were right.
  void Record(const Speculation& asking, int32_t tried, int32_t accepted);
  // Whether it is to be learned how long this draft pass takes, so that it is not put off.
  bool MustTime(const StepPlan& plan, int32_t layers) const;
  // After every plan, and after the Record of its rounds. `pending`: the engine has put it off, and
  // its time is part of the next one's.
  void Observe(const StepPlan& plan, int32_t layers, bool pending, Micros duration);

 private:
  DraftCandidate CandidateOf(const Speculation& asking, WeightFormat format) const;
  void Settle(int32_t caught_up);

  enum class Step { kNone, kPlain, kDrafts, kUnaccounted };

  StepTimes times_;
  std::array<Acceptance, kDraftSources> acceptance_;  // of everybody's drafts
  double balance_;
  bool drafting_ = false;  // of late: it takes more to begin than to go on
  // Of steps without drafts, of one magnitude of rows decoding.
  struct Plain {
    int32_t count = 0;
    int64_t last = 0;  // by `steps_`
  };
  std::array<Plain, 33> plain_ = {};
  int64_t steps_ = 0;
  int32_t since_tried_ = 0;    // steps since drafts were tried that were not expected to pay
  bool try_together_ = false;  // next time in passes that all share: what else their texts offer
                               // would hide what these are worth

  // Of the step that is about to run, or running.
  Step step_ = Step::kNone;
  RowsByFormat decoding_ = {};
  int32_t sequences_ = 0;
  double stake_ = 0;
  bool may_catch_up_ = false;
  bool caught_up_ = false;  // in the step before
  // Of draft models: the most rows that may be tried, and the unit times of one, as seen of late.
  int32_t catch_up_tried_;
  double catch_up_time_ = 0;
  int32_t extra_tokens_ = 0;
  Micros elapsed_ = 0;           // its draft passes included
  bool behind_pending_ = false;  // the plan that is about to run is
};

}  // namespace skim
