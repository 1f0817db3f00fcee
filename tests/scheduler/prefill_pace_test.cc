#include "scheduler/prefill_pace.h"

#include <gtest/gtest.h>

namespace skim {
namespace {

constexpr int32_t kLayers = 10;
constexpr int64_t kMost = 512 * kLayers;
constexpr Micros kAlone = 10'000;

// A machine on which a step takes kAlone and, for each token-layer of a prompt, `cost` beside.
Micros Takes(double cost, int64_t token_layers) {
  return kAlone + static_cast<Micros>(cost * static_cast<double>(token_layers));
}

TEST(PrefillPace, LimitsNothingUnlessAskedTo) {
  PrefillPace pace(0, kMost, kLayers);
  pace.Add(0, kAlone);
  pace.Add(kMost, 100 * kAlone);
  EXPECT_EQ(pace.Budget(), kMost);
}

TEST(PrefillPace, LimitsNothingBeforeAnybodyHasDecodedAlone) {
  PrefillPace pace(2, kMost, kLayers);
  EXPECT_EQ(pace.Budget(), kMost);
  pace.Add(kMost, 100 * kAlone);
  EXPECT_EQ(pace.Budget(), kMost);
}

TEST(PrefillPace, FindsWhatFitsTheLimitAndFollowsAPromptThatBecomesDearer) {
  for (const double slowdown : {1.5, 2.0, 4.0}) {
    PrefillPace pace(slowdown, kMost, kLayers);
    pace.Add(0, kAlone);
    double cost = 10;
    for (int step = 0; step < 400; ++step) {
      const int64_t budget = pace.Budget();
      const Micros took = Takes(cost, budget);
      if (step > 20) {
        EXPECT_LT(took, slowdown * kAlone) << step;
        EXPECT_GT(took, (1 + 0.6 * (slowdown - 1)) * kAlone) << step;
      }
      pace.Add(budget, took);
      cost *= 1.005;
    }
  }
}

TEST(PrefillPace, OneOddStepHalvesIt) {
  PrefillPace pace(2, kMost, kLayers);
  pace.Add(0, kAlone);
  for (int step = 0; step < 50; ++step) pace.Add(pace.Budget(), Takes(5, pace.Budget()));
  const int64_t before = pace.Budget();
  pace.Add(before, 1000 * kAlone);
  EXPECT_NEAR(static_cast<double>(pace.Budget()), before / 2.0, 1);
}

TEST(PrefillPace, NeverStopsAPromptAltogether) {
  PrefillPace pace(1.1, kMost, kLayers);
  pace.Add(0, kAlone);
  for (int step = 0; step < 100; ++step) pace.Add(pace.Budget(), 1000 * kAlone);
  EXPECT_GE(pace.Budget(), kLayers);
}

TEST(PrefillPace, TheEndOfAPromptDoesNotSlowDownTheNext) {
  PrefillPace pace(2, kMost, kLayers);
  pace.Add(0, kAlone);
  for (int step = 0; step < 50; ++step) pace.Add(pace.Budget(), Takes(5, pace.Budget()));
  const int64_t before = pace.Budget();
  pace.Add(kLayers, Takes(5, kLayers));
  EXPECT_EQ(pace.Budget(), before);
}

TEST(PrefillPace, APartThatHadToGoWholeHurriesNobody) {
  PrefillPace pace(2, kMost, kLayers);
  pace.Add(0, kAlone);
  const int64_t before = pace.Budget();
  pace.Add(kMost, 100 * kAlone);
  EXPECT_EQ(pace.Budget(), before);
}

TEST(PrefillPace, AClockThatStandsStillTeachesNothing) {
  PrefillPace pace(2, kMost, kLayers);
  pace.Add(0, 0);
  pace.Add(kMost, 0);
  EXPECT_EQ(pace.Budget(), kMost);
}

}  // namespace
}  // namespace skim
