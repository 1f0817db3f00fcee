#include "tests/scheduler/simulation.h"

#include <gtest/gtest.h>

#include <cstdio>
#include <cstdlib>

namespace skim {
namespace {

// The sanitizers slow this down tenfold and more.
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr int64_t kSeeds = 1'000;
#else
constexpr int64_t kSeeds = 100'000;  // about a minute
#endif

// More, or others, may be asked for: SKIM_SIMULATION_SEEDS=FIRST:COUNT.
struct Seeds {
  int64_t first = 1;
  int64_t count = kSeeds;
};

Seeds WantedSeeds() {
  Seeds seeds;
  const char* text = std::getenv("SKIM_SIMULATION_SEEDS");
  if (text == nullptr) return seeds;
  const int read = std::sscanf(text, "%ld:%ld", &seeds.first, &seeds.count);
  EXPECT_TRUE(read == 2 && seeds.first >= 0 && seeds.count > 0)
      << "SKIM_SIMULATION_SEEDS is not FIRST:COUNT";
  return seeds;
}

// G4 (pages add up), G5 (no foreign tokens) and G6 (exactly one finish each), in schedules
// that are mostly worse than real ones. A failing seed is printed and can be run alone.
TEST(SchedulerSimulation, KeepsEveryGuaranteeInRandomSchedules) {
  SimulationCounts counts;
  const Seeds seeds = WantedSeeds();
  for (int64_t seed = seeds.first; seed < seeds.first + seeds.count; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    Simulation(static_cast<uint32_t>(seed), &counts).Run();
    if (HasFailure()) return;
  }
  std::printf("steps %ld rows %ld requests %ld refused %ld preemptions %ld cached tokens %ld\n",
              counts.steps, counts.rows, counts.requests, counts.refused, counts.preemptions,
              counts.cached_tokens);
  std::printf("stop %ld length %ld time %ld cancelled %ld error %ld (slow %ld, outgrown %ld)\n",
              counts.finished[FinishReason::kStopToken], counts.finished[FinishReason::kLength],
              counts.finished[FinishReason::kTimeLimit], counts.finished[FinishReason::kCancelled],
              counts.finished[FinishReason::kError], counts.slow_readers, counts.outgrown);
  std::printf(
      "pruned %ld of them preempted %ld revived tokens %ld hidden rows dropped %ld cached tokens "
      "%ld\n",
      counts.pruned, counts.pruned_preempted, counts.revived, counts.hidden_dropped,
      counts.pruned_cached_tokens);
  std::printf("predicted tokens %ld, of sequences that were preempted %ld\n", counts.predicted,
              counts.predicted_preempted);
  std::printf("tokens that looking back brought back %ld\n", counts.looked_back);
  std::printf("cuts that scouts made %ld, after a preemption %ld\n", counts.scouted,
              counts.scouted_preempted);
  for (const DrafterKind kind : {DrafterKind::kLookup, DrafterKind::kSelf, DrafterKind::kHead,
                                 DrafterKind::kDraftModel, DrafterKind::kAuto}) {
    const SpeculationCounts& drafts = counts.drafts[static_cast<size_t>(kind)];
    std::printf("%s drafts %ld accepted %ld\n", std::string(DrafterName(kind)).c_str(),
                drafts.drafted, drafts.accepted);
  }
  std::printf("of pruned prompts: drafts %ld accepted %ld\n", counts.pruned_drafts.drafted,
              counts.pruned_drafts.accepted);
  std::printf("by earlier answers: drafts %ld accepted %ld\n", counts.stored_drafts.drafted,
              counts.stored_drafts.accepted);
  std::printf("draft models: rows to catch up %ld, evicted %ld\n", counts.caught_up,
              counts.draft_models_evicted);
  if (seeds.count < 100) return;  // a few seeds, to look at them
  // The schedules must have met what they are meant to test.
  EXPECT_GT(counts.steps, 50 * seeds.count);
  EXPECT_GT(counts.refused, seeds.count);
  EXPECT_GT(counts.preemptions, seeds.count);
  EXPECT_GT(counts.cached_tokens, 10 * seeds.count);
  EXPECT_GT(counts.slow_readers, seeds.count / 10);
  EXPECT_GT(counts.outgrown, seeds.count / 10);
  EXPECT_GT(counts.pruned, seeds.count);
  EXPECT_GT(counts.pruned_preempted, seeds.count / 10);
  EXPECT_GT(counts.pruned_cached_tokens, seeds.count);
  EXPECT_GT(counts.predicted, seeds.count);
  EXPECT_GT(counts.looked_back, seeds.count / 20);
  EXPECT_GT(counts.scouted, seeds.count / 2);
  EXPECT_GE(counts.scouted_preempted, seeds.count / 1000 - 1);  // too rare to count on in few seeds
  EXPECT_GT(counts.predicted_preempted, seeds.count / 10);
  EXPECT_GT(counts.revived, seeds.count);
  EXPECT_GT(counts.revived_late, seeds.count / 2);
  EXPECT_GT(counts.hidden_dropped, seeds.count / 20);
  for (const DrafterKind kind : {DrafterKind::kLookup, DrafterKind::kSelf, DrafterKind::kHead,
                                 DrafterKind::kDraftModel, DrafterKind::kAuto}) {
    const SpeculationCounts& drafts = counts.drafts[static_cast<size_t>(kind)];
    // There is mostly a prompt somewhere, and then kAuto drafts nothing; and memory is mostly
    // short, and then no draft model keeps its pages.
    const int64_t enough = kind == DrafterKind::kAuto         ? seeds.count / 50
                           : kind == DrafterKind::kDraftModel ? seeds.count / 4
                                                              : seeds.count / 2;
    EXPECT_GT(drafts.drafted, 4 * enough);
    EXPECT_GT(drafts.accepted, enough);
    EXPECT_LT(drafts.accepted, drafts.drafted - enough);
  }
  EXPECT_GT(counts.put_off, seeds.count);
  EXPECT_GT(counts.caught_up, seeds.count);
  EXPECT_GT(counts.draft_models_evicted, seeds.count / 10);
  EXPECT_GT(counts.pruned_drafts.accepted, seeds.count / 60);
  EXPECT_GE(counts.stored_drafts.accepted, seeds.count / 1000 - 1);  // rare, too
  for (const auto& [reason, count] : counts.finished) EXPECT_GT(count, seeds.count / 10);
  EXPECT_EQ(counts.finished.size(), 5u);
}

}  // namespace
}  // namespace skim
