#include "tests/scheduler/simulation.h"

#include <gtest/gtest.h>

#include <cstdio>

namespace skim {
namespace {

// The sanitizers slow this down tenfold and more.
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr int64_t kSeeds = 300;
#else
constexpr int64_t kSeeds = 3000;
#endif

// G4 (pages add up), G5 (no foreign tokens) and G6 (exactly one finish each), in schedules
// that are mostly worse than real ones. A failing seed is printed and can be run alone.
TEST(SchedulerSimulation, KeepsEveryGuaranteeInRandomSchedules) {
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
  std::printf("pruned %ld of them preempted %ld revived tokens %ld hidden rows dropped %ld\n",
              counts.pruned, counts.pruned_preempted, counts.revived, counts.hidden_dropped);
  // The schedules must have met what they are meant to test.
  EXPECT_GT(counts.steps, 50 * kSeeds);
  EXPECT_GT(counts.refused, kSeeds);
  EXPECT_GT(counts.preemptions, kSeeds);
  EXPECT_GT(counts.cached_tokens, 10 * kSeeds);
  EXPECT_GT(counts.slow_readers, kSeeds / 10);
  EXPECT_GT(counts.outgrown, kSeeds / 10);
  EXPECT_GT(counts.pruned, kSeeds);
  EXPECT_GT(counts.pruned_preempted, kSeeds / 10);
  EXPECT_GT(counts.revived, kSeeds);
  EXPECT_GT(counts.hidden_dropped, kSeeds / 10);
  for (const auto& [reason, count] : counts.finished) EXPECT_GT(count, kSeeds / 10);
  EXPECT_EQ(counts.finished.size(), 5u);
}

}  // namespace
}  // namespace skim
