#include "scheduler/acceptance.h"

#include <algorithm>

namespace skim {
namespace {

// Rounds that an expectation counts for.
constexpr double kExpectedRounds = 4;

}  // namespace

void Acceptance::Add(int32_t drafted, int32_t accepted) {
  const int32_t tried = std::min(drafted, accepted + 1);
  for (int32_t place = 0; place < tried; ++place) {
    Count& count = counts_[place];
    count.tried = count.tried * keep_ + 1;
    count.right = count.right * keep_ + (place < accepted ? 1 : 0);
  }
}

double Acceptance::At(int32_t place, double expected) const {
  const Count& count = counts_[place];
  return (count.right + expected * kExpectedRounds) / (count.tried + kExpectedRounds);
}

}  // namespace skim
