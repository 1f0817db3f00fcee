// How many drafts each sequence of a step should have, and whose: a pure function of what is
// known. A round of drafts pays if the tokens it yields outweigh the time it takes longer than a
// step without, for everybody who decodes in it. With E_i tokens expected for sequence i of n and
// times t and t_0 with and without drafts, the gain is the mean logarithm by which rates grow,
//   mean of log E_i - log(t / t_0),
// so that who has no drafts is not slowed down for the sake of who has, unless these gain more
// than he loses; where it is positive, tokens per second grow, too (the mean is no less than the
// geometric one).
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <vector>

#include "scheduler/speculation_policy.h"
#include "scheduler/step_times.h"

namespace skim {

// What one source would draft for a sequence.
struct DraftOffer {
  bool passes = false;  // a row of `pass` each
  PassKind pass = PassOf(WeightFormat::kBf16);
  int32_t most = 0;                              // drafts, [1, kMaxDrafts]
  std::array<double, kMaxDrafts> survival = {};  // that the first 1, 2, .. are right, all of them
  int32_t first_rows = 1;                        // of the first pass
};

struct DraftCandidate {
  WeightFormat format = WeightFormat::kBf16;  // that verifies
  std::vector<DraftOffer> offers;
};

struct DraftChoice {
  int32_t offer = -1;  // none
  int32_t drafts = 0;
};

struct DraftPlan {
  std::vector<DraftChoice> choices;  // by candidate
  double gain = 0;                   // expected, as above
  double stake = 0;                  // t / t_0 - 1: lost if no draft is right
  bool any() const { return stake > 0; }
};

// The plan of most gain, if that is more than `least_gain` and stakes at most `most_stake`; else
// none. `decoding`: a row for everybody in the step, candidates or not.
DraftPlan ChooseDrafts(std::span<const DraftCandidate> candidates, const RowsByFormat& decoding,
                       const StepTimes& times, double least_gain, double most_stake);

// One draft for each candidate, whether or not it pays, to learn whether it would: of the offer
// that seems best, or, `together`, of the best that takes a pass, which all then share.
DraftPlan ExploreDrafts(std::span<const DraftCandidate> candidates, const RowsByFormat& decoding,
                        const StepTimes& times, double most_stake, bool together);

// Whether steps are so full that a draft for everybody would not pay even if all were right:
// twice the rows take `kSaturated` times as long.
bool Saturated(const RowsByFormat& decoding, const StepTimes& times);

}  // namespace skim
