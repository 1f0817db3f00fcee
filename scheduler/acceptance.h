// How often drafts of one source turn out right, by their place in the round. What is long past
// counts less and less.
#pragma once

#include <array>
#include <cstdint>

#include "scheduler/speculation_policy.h"

namespace skim {

class Acceptance {
 public:
  // A round counts `keep` times as much after the next one: in (0, 1).
  explicit Acceptance(double keep = 0.9) : keep_(keep) {}

  // A round of `drafted` drafts, of which the first `accepted` were right.
  void Add(int32_t drafted, int32_t accepted);
  // That the draft at `place`, from 0 on, is right if those before it are; `expected` where
  // nothing is known, and mixed in while little is.
  double At(int32_t place, double expected) const;

 private:
  struct Count {
    double tried = 0, right = 0;
  };
  double keep_;
  std::array<Count, kMaxDrafts> counts_ = {};
};

}  // namespace skim
