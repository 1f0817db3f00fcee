// How much of prompts a step computes while others decode in it, so that it takes at most so many
// times as long as a step without. What a prompt's rows cost grows with the context before them
// and differs between machines, so the pace is not computed but found: each step that took longer
// than it should makes the next one smaller, and the other way round. Loop thread only; no clock
// is read here.
#pragma once

#include <cstdint>

#include "base/types.h"

namespace skim {

class PrefillPace {
 public:
  // `most_slowdown`: 0 = any, else above 1. `most`: token-layers of a whole step, > 0; `layers` of
  // the model: no pace is slower than a few rows through all of them.
  PrefillPace(double most_slowdown, int64_t most, int32_t layers);

  // Token-layers of prompts that the next step may compute if somebody decodes in it.
  int64_t Budget() const;

  // A step in which somebody decoded, with so much of prompts beside. A duration of 0, as of a
  // test's clock that stands still, says nothing.
  void Add(int64_t prefill_token_layers, Micros duration);

 private:
  const double most_slowdown_;
  const int64_t least_, most_;
  double alone_ = 0;  // of steps without prompts, microseconds; 0: none yet
  double pace_;       // token-layers
};

}  // namespace skim
