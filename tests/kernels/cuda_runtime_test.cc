// What the owner of a device's stream promises, on the simulated device.
#include <gtest/gtest.h>

#include <algorithm>
#include <vector>

#include "kernels/cuda/launch.h"
#include "kernels/cuda/runtime.h"

namespace skim::cuda {
namespace {

constexpr DeviceMemory kArena = {.bytes = 4 << 20};

// Null where there is no device.
std::unique_ptr<Runtime> Make(const DeviceMemory& memory = {}) {
  auto runtime = Runtime::Create(memory);
  if (runtime.status().code() == absl::StatusCode::kFailedPrecondition) return nullptr;
  EXPECT_TRUE(runtime.ok()) << runtime.status();
  return *std::move(runtime);
}

using Fault = void (*)(Runtime&);

// An invalid configuration: a grid of no blocks.
void FailToLaunch(Runtime& runtime) {
  LaunchRmsNorm(runtime.launches(), {nullptr, 0, 8, 8}, nullptr, 0, {nullptr, 0, 8, 8});
  runtime.CheckLaunch("nothing to do");
}

void RunOutOfMemory(Runtime& runtime) {
  Scratch scratch(&runtime);
  EXPECT_EQ(scratch.Reserve<std::byte>(size_t{1} << 50), nullptr);
}

// Every seed of the simulated device draws the order of the streams anew.
void ExpectDoneWithHostMemoryAfter(Fault fault) {
  const auto failing = Make(kArena);
  if (failing == nullptr) GTEST_SKIP() << "no CUDA device";
  const auto reader = Make(kArena);
  const std::vector<int> sent(64, 7);
  std::vector<int> host = sent, got(host.size());
  const size_t bytes = host.size() * sizeof(int);
  const auto device = failing->Allocate(bytes);
  ASSERT_TRUE(device.ok()) << device.status();
  failing->Upload(*device, host.data(), bytes);
  fault(*failing);
  EXPECT_FALSE(failing->Wait().ok());
  std::fill(host.begin(), host.end(), 8);
  EXPECT_FALSE(failing->Wait().ok());
  reader->Download(got.data(), *device, bytes);
  ASSERT_TRUE(reader->Wait().ok());
  EXPECT_EQ(got, sent);
  failing->Free(*device);
}

TEST(CudaRuntime, IsDoneWithHostMemoryAfterALaunchThatFailed) {
  ExpectDoneWithHostMemoryAfter(FailToLaunch);
}

TEST(CudaRuntime, IsDoneWithHostMemoryAfterItRanOutOfMemory) {
  ExpectDoneWithHostMemoryAfter(RunOutOfMemory);
}

TEST(CudaRuntime, TakesItsMemoryAtTheStartAndGivesNoMore) {
  const auto runtime = Make(kArena);
  if (runtime == nullptr) GTEST_SKIP() << "no CUDA device";
  EXPECT_EQ(runtime->free_bytes(), size_t{4} << 20);
  const auto most = runtime->Allocate(3 << 20);
  ASSERT_TRUE(most.ok()) << most.status();
  EXPECT_EQ(runtime->free_bytes(), size_t{1} << 20);
  const auto more = runtime->Allocate((1 << 20) + 1);
  EXPECT_EQ(more.status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(more.status().message(),
            "device_memory: 1048577 more bytes are wanted, 1048576 of 4194304 are left");
  runtime->Free(*most);
  EXPECT_EQ(runtime->free_bytes(), size_t{4} << 20);
  EXPECT_TRUE(runtime->Wait().ok());  // it was an answer, no fault
}

TEST(CudaRuntime, TakesNineTenthsOfWhatIsFreeUnlessToldOtherwise) {
  const auto first = Make();
  if (first == nullptr) GTEST_SKIP() << "no CUDA device";
  const auto second = Make({.share = 0.5});
  // Of a tenth a half is left, but for what is rounded to whole pages.
  EXPECT_NEAR(static_cast<double>(second->free_bytes()),
              static_cast<double>(first->free_bytes()) / 18, 4 << 20);
}

TEST(CudaRuntime, SaysHowMuchADeviceHasThatHasLess) {
  if (Make(kArena) == nullptr) GTEST_SKIP() << "no CUDA device";
  const auto status = Runtime::Create({.bytes = int64_t{1} << 50}).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_NE(status.message().find("device_memory: 1125899906842624 bytes cannot be had"),
            std::string::npos)
      << status;
  EXPECT_FALSE(Runtime::Create({.bytes = 1}).ok());
}

TEST(CudaRuntime, FreesBehindWhatIsEnqueued) {
  const auto runtime = Make(kArena);
  if (runtime == nullptr) GTEST_SKIP() << "no CUDA device";
  constexpr int kMost = 3 << 20;  // no two of them fit
  const std::vector<uint8_t> sent(kMost, 7);
  std::vector<uint8_t> got(kMost), fresh(kMost, 1);
  const auto device = runtime->Allocate(kMost);
  ASSERT_TRUE(device.ok()) << device.status();
  runtime->Upload(*device, sent.data(), kMost);
  runtime->Download(got.data(), *device, kMost);
  runtime->Free(*device);
  const auto again = runtime->Allocate(kMost);
  ASSERT_TRUE(again.ok()) << again.status();
  runtime->Download(fresh.data(), *again, kMost);
  ASSERT_TRUE(runtime->Wait().ok());
  EXPECT_EQ(got, sent);
  EXPECT_EQ(fresh, std::vector<uint8_t>(kMost, 0));
  runtime->Free(*again);
}

}  // namespace
}  // namespace skim::cuda
