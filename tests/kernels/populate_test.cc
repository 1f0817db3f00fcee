#include "kernels/cpu/populate.h"

#include <gtest/gtest.h>
#include <sys/mman.h>

#include <cstring>
#include <thread>
#include <vector>

#include "kernels/cpu/memory.h"

namespace skim {
namespace {

constexpr size_t kBytes = size_t{64} << 20;

size_t PagesPresent(const AlignedMemory& memory) {
  std::vector<unsigned char> present(memory.size() / 4096);
  EXPECT_EQ(mincore(memory.data(), memory.size(), present.data()), 0);
  size_t count = 0;
  for (unsigned char page : present) count += page & 1;
  return count;
}

bool KernelPopulates() {
  constexpr int kMadvPopulateWrite = 23;
  AlignedMemory memory = *AlignedMemory::Allocate(kBytes);
  return madvise(memory.data(), 4096, kMadvPopulateWrite) == 0;
}

TEST(Populate, GivesFreshMemoryItsPagesAndLeavesWhatIsInThem) {
  AlignedMemory memory = *AlignedMemory::Allocate(kBytes);
  ASSERT_EQ(PagesPresent(memory), 0u);
  std::memset(memory.data() + kBytes / 2, 7, 100);
  PopulateInBackground(memory.data(), memory.size()).join();
  if (!KernelPopulates()) GTEST_SKIP() << "this kernel cannot populate memory";
  EXPECT_EQ(PagesPresent(memory), kBytes / 4096);
  EXPECT_EQ(memory.data()[0], std::byte{0});
  EXPECT_EQ(memory.data()[kBytes / 2 + 99], std::byte{7});
}

TEST(Populate, EndsWhenAskedTo) {
  AlignedMemory memory = *AlignedMemory::Allocate(size_t{1} << 30);
  { const std::jthread populate = PopulateInBackground(memory.data(), memory.size()); }
  EXPECT_LT(PagesPresent(memory), memory.size() / 4096);
}

}  // namespace
}  // namespace skim
