// The waits between the tokens of a stream.
#pragma once

#include <span>
#include <vector>

#include "base/types.h"

namespace skim {

struct TokenGap {
  Micros begin = 0;  // arrival of the message before, and of this one
  Micros end = 0;
  double ms = 0;
};

// One for every token behind the first message, from their arrival times in order. Tokens of one
// message share their arrival time: each waited for its part of the gap.
std::vector<TokenGap> TokenGaps(std::span<const Micros> token_times);

}  // namespace skim
