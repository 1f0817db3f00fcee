// What the owner of a device's stream promises, on the simulated device.
#include <gtest/gtest.h>

#include <algorithm>
#include <vector>

#include "kernels/cuda/launch.h"
#include "kernels/cuda/runtime.h"

namespace skim::cuda {
namespace {

using Fault = void (*)(Runtime&);

// An invalid configuration: a grid of no blocks.
void FailToLaunch(Runtime& runtime) {
  LaunchRmsNorm(runtime.stream(), {nullptr, 0, 8, 8}, nullptr, 0, {nullptr, 0, 8, 8});
  runtime.CheckLaunch("nothing to do");
}

void RunOutOfMemory(Runtime& runtime) {
  Scratch scratch(&runtime);
  EXPECT_EQ(scratch.Reserve<std::byte>(size_t{1} << 50), nullptr);
}

// Every seed of the simulated device draws the order of the streams anew.
void ExpectDoneWithHostMemoryAfter(Fault fault) {
  auto failing = Runtime::Create();
  if (failing.status().code() == absl::StatusCode::kFailedPrecondition) {
    GTEST_SKIP() << failing.status();
  }
  ASSERT_TRUE(failing.ok()) << failing.status();
  auto reader = Runtime::Create();
  ASSERT_TRUE(reader.ok()) << reader.status();
  const std::vector<int> sent(64, 7);
  std::vector<int> host = sent, got(host.size());
  const size_t bytes = host.size() * sizeof(int);
  const auto device = (*failing)->Allocate(bytes);
  ASSERT_TRUE(device.ok()) << device.status();
  (*failing)->Upload(*device, host.data(), bytes);
  fault(**failing);
  EXPECT_FALSE((*failing)->Wait().ok());
  std::fill(host.begin(), host.end(), 8);
  EXPECT_FALSE((*failing)->Wait().ok());
  (*reader)->Download(got.data(), *device, bytes);
  ASSERT_TRUE((*reader)->Wait().ok());
  EXPECT_EQ(got, sent);
  (*failing)->Free(*device);
}

TEST(CudaRuntime, IsDoneWithHostMemoryAfterALaunchThatFailed) {
  ExpectDoneWithHostMemoryAfter(FailToLaunch);
}

TEST(CudaRuntime, IsDoneWithHostMemoryAfterItRanOutOfMemory) {
  ExpectDoneWithHostMemoryAfter(RunOutOfMemory);
}

}  // namespace
}  // namespace skim::cuda
