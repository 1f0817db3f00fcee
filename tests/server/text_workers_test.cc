#include "server/text_workers.h"

#include <gtest/gtest.h>

#include <atomic>
#include <future>
#include <latch>
#include <optional>

#include "server/serial_task.h"

namespace skim {
namespace {

TEST(TextWorkers, KeepAThreadForStreamsWhileAdmissionsBlock) {
  std::promise<void> release;
  std::shared_future<void> released = release.get_future().share();
  std::promise<void> streamed;
  {
    TextWorkers workers(2, 100);
    for (int i = 0; i < 10; ++i) workers.TryPostAdmission([released] { released.wait(); });
    workers.PostStream([&] { streamed.set_value(); });
    streamed.get_future().wait();
    release.set_value();
  }
}

TEST(TextWorkers, RefuseAdmissionsBeyondTheirQueue) {
  std::promise<void> release;
  std::shared_future<void> released = release.get_future().share();
  std::latch started(1);
  std::atomic<int> ran = 0;
  int accepted = 0;
  {
    TextWorkers workers(1, 3);
    workers.TryPostAdmission([&] {
      started.count_down();
      released.wait();
    });
    started.wait();
    for (int i = 0; i < 10; ++i) accepted += workers.TryPostAdmission([&] { ++ran; });
    release.set_value();
  }
  EXPECT_EQ(accepted, 3);
  EXPECT_EQ(ran, 3);
}

TEST(TextWorkers, RunEveryJobOnceBeforeTheyEnd) {
  std::atomic<int> ran = 0;
  {
    TextWorkers workers(3, 1000);
    for (int i = 0; i < 500; ++i) {
      workers.PostStream([&] { ++ran; });
      workers.TryPostAdmission([&] { ++ran; });
    }
  }
  EXPECT_EQ(ran, 1000);
}

TEST(SerialTask, NeverRunsTwiceAtATimeAndAlwaysAfterAWake) {
  std::atomic<int> inside = 0;
  std::atomic<int> overlaps = 0;
  std::atomic<int> produced = 0;
  int consumed = 0;  // plain: only the task touches it
  std::optional<TextWorkers> workers(std::in_place, 3, 1);
  SerialTask task(&*workers);
  const auto run = [&] {
    overlaps += inside.fetch_add(1) != 0;
    consumed = produced.load();
    inside.fetch_sub(1);
  };
  std::vector<std::thread> producers;
  for (int i = 0; i < 4; ++i) {
    producers.emplace_back([&] {
      for (int k = 0; k < 5000; ++k) {
        ++produced;
        task.Wake(run);
      }
    });
  }
  for (auto& producer : producers) producer.join();
  workers.reset();  // runs what is queued
  EXPECT_EQ(overlaps, 0);
  EXPECT_EQ(consumed, 20'000);
}

}  // namespace
}  // namespace skim
