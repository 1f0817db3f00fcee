#include "kernels/cpu/thread_pool.h"

#include <gtest/gtest.h>

#include <chrono>
#include <thread>
#include <vector>

#include "kernels/cpu/cores.h"

namespace skim {
namespace {

// Plain counters, no atomics: the barrier alone must order the accesses (TSan checks).
void ExpectEveryThreadOnce(ThreadPool& pool, int runs) {
  std::vector<int64_t> calls(pool.threads() * 8);
  for (int run = 1; run <= runs; ++run) {
    pool.Run([&](int t) { ++calls[t * 8]; });
    for (int t = 0; t < pool.threads(); ++t) ASSERT_EQ(calls[t * 8], run) << "thread " << t;
  }
}

TEST(ThreadPool, RunsEveryThreadExactlyOnceHundredThousandTimes) {
  ThreadPool pool(2, true);
  ExpectEveryThreadOnce(pool, 100000);
}

TEST(ThreadPool, OfOneRunsOnTheCaller) {
  ThreadPool pool(1, true);
  const std::thread::id self = std::this_thread::get_id();
  pool.Run([&](int t) {
    EXPECT_EQ(t, 0);
    EXPECT_EQ(std::this_thread::get_id(), self);
  });
  ExpectEveryThreadOnce(pool, 1000);
}

TEST(ThreadPool, WorksWithMoreThreadsThanCores) {
  ThreadPool pool(static_cast<int>(PhysicalCores().size()) * 3 + 2, true);
  ExpectEveryThreadOnce(pool, 2000);
}

TEST(ThreadPool, WakesAfterSleeping) {
  ThreadPool pool(3, false);
  for (int i = 0; i < 20; ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(3));
    ExpectEveryThreadOnce(pool, 3);
  }
}

TEST(ThreadPool, WaitsForASlowWorker) {
  ThreadPool pool(2, false);
  for (int i = 0; i < 10; ++i) {
    bool done = false;
    pool.Run([&](int t) {
      if (t == 0) return;
      std::this_thread::sleep_for(std::chrono::milliseconds(3));
      done = true;
    });
    ASSERT_TRUE(done);
  }
}

TEST(ThreadPool, SplitsEveryItemToExactlyOneThreadInWholeGrains) {
  for (int threads : {1, 2, 3, 7}) {
    ThreadPool pool(threads, false);
    for (int64_t items : {0, 1, 2, 15, 16, 17, 100, 1000}) {
      for (int64_t grain : {1, 4, 16, 33}) {
        std::vector<int> seen(items);
        pool.Split(items, grain, [&](int64_t begin, int64_t end) {
          EXPECT_EQ(begin % grain, 0);
          EXPECT_TRUE(end == items || end % grain == 0);
          for (int64_t i = begin; i < end; ++i) ++seen[i];
        });
        for (int count : seen) ASSERT_EQ(count, 1);
      }
    }
  }
}

TEST(ThreadPool, DoesNotPinItsCaller) {
  const std::vector<int> before = PhysicalCores();
  ThreadPool pool(2, true);
  pool.Run([](int) {});
  EXPECT_EQ(PhysicalCores(), before);
}

TEST(ThreadPool, PinsItsWorkersToDifferentCores) {
  const std::vector<int> cores = PhysicalCores();
  ThreadPool pool(static_cast<int>(cores.size()), true);
  std::vector<std::vector<int>> seen(cores.size());
  pool.Run([&](int t) { seen[t] = PhysicalCores(); });
  for (size_t t = 1; t < cores.size(); ++t) EXPECT_EQ(seen[t], std::vector<int>{cores[t]});
}

}  // namespace
}  // namespace skim
