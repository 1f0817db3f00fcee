// Launches that are held back, and those that are replayed as graphs.
#include <gtest/gtest.h>

#include <cstring>
#include <numeric>
#include <vector>

#include "kernels/cuda/launch.h"
#include "kernels/cuda/runtime.h"
#include "tests/ptxsim/from_tests.h"

namespace skim::cuda {
namespace {

constexpr int64_t kRows = 128;

// Rows of one number each, on the device, and what kernels make of them.
class Scene {
 public:
  Scene() {
    auto runtime = Runtime::Create({.bytes = 4 << 20});
    if (runtime.ok()) runtime_ = *std::move(runtime);
  }
  ~Scene() {
    for (void* memory : memory_) runtime_->Free(memory);
  }

  bool there() const { return runtime_ != nullptr; }
  Runtime& runtime() { return *runtime_; }
  int64_t replays() { return runtime_->launches().graph_launches(); }

  Matrix<float> New() {
    memory_.push_back(runtime_->Allocate(kRows * sizeof(float)).value());
    return {static_cast<float*>(memory_.back()), kRows, 1, 1};
  }
  // Kept alive, as uploads want it.
  const std::vector<float>& Upload(Matrix<float> to, float first) {
    host_.emplace_back(kRows);
    std::iota(host_.back().begin(), host_.back().end(), first);
    runtime_->Upload(to.data, host_.back().data(), kRows * sizeof(float));
    return host_.back();
  }
  // `rows` rows of `from`, in reverse.
  void Reverse(Matrix<float> from, Matrix<float> to, int32_t rows = kRows) {
    const std::byte* index = runtime_->MakeList(
        static_cast<size_t>(rows) * sizeof(int32_t), [&](std::byte* list, const std::byte*) {
          for (int32_t i = 0; i < rows; ++i) reinterpret_cast<int32_t*>(list)[i] = rows - 1 - i;
        });
    LaunchGatherRows(runtime_->launches(), from, reinterpret_cast<const int32_t*>(index),
                     to.Rows(0, rows));
    runtime_->CheckLaunch("reverse");
  }
  std::vector<float> Download(Matrix<float> from) {
    std::vector<float> got(kRows);
    runtime_->Download(got.data(), from.data, kRows * sizeof(float));
    EXPECT_TRUE(runtime_->Wait().ok());
    return got;
  }

 private:
  std::unique_ptr<Runtime> runtime_;  // null: no device
  std::vector<void*> memory_;
  std::vector<std::vector<float>> host_;
};

std::vector<float> Reversed(std::vector<float> rows) { return {rows.rbegin(), rows.rend()}; }

TEST(CudaGraphs, TheSecondTimeTheSameLaunchesAreReplayedOnWhatLiesThereThen) {
  Scene scene;
  if (!scene.there()) GTEST_SKIP() << "no CUDA device";
  const Matrix<float> x = scene.New(), y = scene.New(), z = scene.New();
  for (int turn = 0; turn < 4; ++turn) {
    scene.runtime().HoldLaunches();
    const std::vector<float> rows = scene.Upload(x, 100.0f * static_cast<float>(turn));
    scene.Reverse(x, y);
    scene.Reverse(y, z);
    EXPECT_EQ(scene.Download(z), rows);
    EXPECT_EQ(scene.replays(), turn);
  }
  // Other operands, and another number of rows.
  for (int turn = 0; turn < 2; ++turn) {
    scene.runtime().HoldLaunches();
    scene.Reverse(x, z);
    scene.Reverse(z, y);
    EXPECT_EQ(scene.Download(z), Reversed(scene.Download(x)));
    scene.runtime().HoldLaunches();
    scene.Reverse(x, y, kRows - 1);
    EXPECT_EQ(scene.Download(y)[0], scene.Download(x)[kRows - 2]);
    EXPECT_EQ(scene.replays(), 3 + 2 * turn);
  }
  scene.Reverse(x, z);  // not held back
  scene.Reverse(z, y);
  EXPECT_EQ(scene.Download(y), scene.Download(x));
  EXPECT_EQ(scene.replays(), 5);
}

TEST(CudaGraphs, WhatIsEnqueuedOtherwiseKeepsItsPlaceAmongLaunchesHeldBack) {
  Scene scene;
  if (!scene.there()) GTEST_SKIP() << "no CUDA device";
  const Matrix<float> x = scene.New(), y = scene.New(), z = scene.New();
  for (int turn = 0; turn < 3; ++turn) {
    auto freed = scene.runtime().Allocate(kRows * sizeof(float));
    ASSERT_TRUE(freed.ok());
    const Matrix<float> middle{static_cast<float*>(*freed), kRows, 1, 1};
    scene.runtime().HoldLaunches();
    const std::vector<float> first = scene.Upload(x, 1);
    scene.Reverse(x, y);
    const std::vector<float> second = scene.Upload(x, 1000);  // after it was read
    scene.Reverse(x, middle);
    scene.Reverse(middle, z);
    scene.runtime().Free(*freed);  // the same
    std::vector<float> between(kRows);
    scene.runtime().Download(between.data(), y.data, kRows * sizeof(float));
    scene.Reverse(z, y);  // after it was read
    EXPECT_EQ(scene.Download(y), Reversed(second));
    EXPECT_EQ(between, Reversed(first));
  }
}

TEST(CudaGraphs, ListsOfAStepThatFillMoreThanAPieceOfMemoryStayWhatTheyAre) {
  Scene scene;
  if (!scene.there()) GTEST_SKIP() << "no CUDA device";
  constexpr int kLists = 2000;
  const Matrix<float> x = scene.New(), y = scene.New(), z = scene.New();
  const std::vector<float> rows = scene.Upload(x, 0);
  for (int turn = 0; turn < 3; ++turn) {
    scene.runtime().HoldLaunches();
    scene.Reverse(x, y);
    scene.Reverse(y, z, 1);  // whose list is not overwritten by any of these
    for (int i = 0; i < kLists; ++i) {
      scene.runtime().MakeList(64, [](std::byte* list, const std::byte*) { list[0] = {}; });
    }
    scene.Reverse(y, z);
    EXPECT_EQ(scene.Download(z), rows);
  }
  EXPECT_EQ(scene.replays(), 1);  // lists come to rest in the second step
}

TEST(CudaGraphs, BytesBetweenTheMembersOfAnArgumentAreNoDifference) {
  Scene scene;
  if (!scene.there()) GTEST_SKIP() << "no CUDA device";
  const Matrix<float> table = scene.New(), y = scene.New();
  for (int turn = 0; turn < 2; ++turn) {
    WeightView view;
    std::memset(static_cast<void*>(&view), 0x55 + turn, sizeof(view));
    view.data = reinterpret_cast<const std::byte*>(table.data);
    view.scales = nullptr;
    view.groups = nullptr;
    view.format = WeightFormat::kBf16;
    view.rotated = false;
    view.features = view.inputs = view.input_tiles = 1;
    scene.runtime().HoldLaunches();
    LaunchEmbed(scene.runtime().launches(), view, reinterpret_cast<const TokenId*>(table.data),
                nullptr, y.Rows(0, 1));
    EXPECT_EQ(scene.Download(y)[0], 0);
    EXPECT_EQ(scene.replays(), turn);
  }
}

TEST(CudaGraphs, ThoseThatWereNotLaunchedForLongAreGivenUp) {
  Scene scene;
  if (!scene.there()) GTEST_SKIP() << "no CUDA device";
  auto* const kept = ptxsim::ExecutableGraphs();
  const Matrix<float> x = scene.New(), y = scene.New();
  const auto most = static_cast<int32_t>(LaunchQueue::kMostLists);
  const auto replayed = [&](int32_t rows) {
    const int64_t before = scene.replays();
    scene.runtime().HoldLaunches();
    scene.Reverse(x, y, rows);
    EXPECT_TRUE(scene.runtime().Wait().ok());
    return scene.replays() > before;
  };
  for (int32_t rows = 1; rows <= most + 4; ++rows) {
    EXPECT_FALSE(replayed(rows));
    EXPECT_TRUE(replayed(rows));
    EXPECT_TRUE(replayed(1));  // used all the time
    if (kept != nullptr) {
      EXPECT_LE(kept(), LaunchQueue::kMostLists);
    }
  }
  EXPECT_TRUE(replayed(most + 4));
  EXPECT_FALSE(replayed(2));
}

TEST(CudaGraphs, AFailedLaunchThatWasHeldBackIsNamed) {
  Scene scene;
  if (!scene.there()) GTEST_SKIP() << "no CUDA device";
  const Matrix<float> x = scene.New(), y = scene.New();
  scene.runtime().HoldLaunches();
  scene.Reverse(x, y);
  LaunchRmsNorm(scene.runtime().launches(), {nullptr, 0, 8, 8}, nullptr, 0, {nullptr, 0, 8, 8});
  scene.runtime().CheckLaunch("nothing to do");
  scene.Reverse(y, x);
  EXPECT_TRUE(scene.runtime().ok());
  const absl::Status status = scene.runtime().Wait();
  EXPECT_NE(status.message().find("nothing to do failed"), std::string::npos) << status;
}

}  // namespace
}  // namespace skim::cuda
