// What becomes of an engine whose device runs out of memory.
#include <gtest/gtest.h>

#include "tests/engine/golden.h"
#include "tests/engine/harness.h"
#include "tests/ptxsim/from_tests.h"

namespace skim {
namespace {

// Loads a model and generates two tokens.
absl::Status LoadAndGenerate() {
  auto harness =
      EngineHarness::Load(GoldenPath("tiny-llama2"),
                          {.backend = "cuda", .page_tokens = 16, .kv_pages = 64, .max_rows = 16});
  if (!harness.ok()) return harness.status();
  HarnessSequence sequence = (*harness)->NewSequence({1, 2, 3});
  return (*harness)->Generate(&sequence, 3, 1);
}

TEST(CudaMemory, WhicheverAllocationFailsThereIsAStatusAndNothingIsLeftBehind) {
  auto* const fail = ptxsim::FailAllocation();
  auto* const live = ptxsim::LiveAllocations();
  if (fail == nullptr || live == nullptr) GTEST_SKIP() << "no simulated device";
  absl::Status status;
  long n = 0;
  do {
    fail(++n);
    status = LoadAndGenerate();
    fail(0);
    ASSERT_EQ(live(), 0u) << "after allocation " << n << " failed: " << status;
    if (!status.ok()) {
      EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted) << status;
    }
  } while (!status.ok());
  EXPECT_GT(n, 30);  // weights, activations, keys and values, and what a step needs
}

}  // namespace
}  // namespace skim
