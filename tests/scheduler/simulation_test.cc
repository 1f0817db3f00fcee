#include "tests/scheduler/simulation.h"

#include <gtest/gtest.h>

#include <cstdio>

namespace skim {
namespace {

// G4 (pages add up), G5 (no foreign tokens) and G6 (exactly one finish each), in schedules
// that are mostly worse than real ones. A failing seed is printed and can be run alone.
TEST(SchedulerSimulation, KeepsEveryGuaranteeInRandomSchedules) {
  constexpr uint32_t kSeeds = 3000;
  SimulationCounts counts;
  for (uint32_t seed = 1; seed <= kSeeds; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    Simulation(seed, &counts).Run();
    if (HasFailure()) return;
  }
  std::printf("steps %ld rows %ld requests %ld refused %ld preemptions %ld cached tokens %ld\n",
              counts.steps, counts.rows, counts.requests, counts.refused, counts.preemptions,
              counts.cached_tokens);
  std::printf("stop %ld length %ld time %ld cancelled %ld error %ld (slow %ld, outgrown %ld)\n",
              counts.finished[FinishReason::kStopToken], counts.finished[FinishReason::kLength],
              counts.finished[FinishReason::kTimeLimit], counts.finished[FinishReason::kCancelled],
              counts.finished[FinishReason::kError], counts.slow_readers, counts.outgrown);
  EXPECT_GE(counts.steps, 100000);
  // The schedules must have met what they are meant to test.
  EXPECT_GT(counts.refused, 100);
  EXPECT_GT(counts.preemptions, 1000);
  EXPECT_GT(counts.cached_tokens, 1000);
  EXPECT_GT(counts.slow_readers, 100);
  EXPECT_GT(counts.outgrown, 100);
  for (const auto& [reason, count] : counts.finished) EXPECT_GT(count, 100);
  EXPECT_EQ(counts.finished.size(), 5u);
}

}  // namespace
}  // namespace skim
