// What the attention kernels want of the host.
#include <gtest/gtest.h>

#include <algorithm>

#include "kernels/cuda/launch.h"

namespace skim::cuda {
namespace {

// A few single rows beside a long prompt do not make it want a part for every split of the prompt.
TEST(CudaAttention, WantsLittleMemoryForSplitsWhateverTheBatch) {
  constexpr int kSlots = 1 << 15, kSplits = kSlots / 512, kHeadDim = 128, kPart = kHeadDim + 4;
  constexpr int64_t kFewPairs = 4096;  // whose splits may be computed apart
  constexpr int kHeads = 32, kSharing = 4;
  const KvLayout layout = {.kv_heads = kHeads / kSharing, .head_dim = kHeadDim};
  for (const int32_t large : {0, 1, 7, 8, 512}) {
    for (const int32_t small : {0, 1, 31, 32, 512}) {
      const int64_t count = (large * kLargeAttentionTile + small * kSmallAttentionTile) / kSharing;
      const DeviceRows rows = {.count = count, .most_slots = kSlots};
      const int64_t floats = AttentionPartFloats(kHeads, rows, {nullptr, large, small}, layout);
      EXPECT_GE(floats, count * kHeads * kPart);
      EXPECT_LE(floats, std::max(kFewPairs * kSplits, count * kHeads) * kPart)
          << large << " large and " << small << " small tiles";
    }
  }
  EXPECT_EQ(AttentionPartFloats(kHeads, {.count = 100, .most_slots = 512}, {nullptr, 7, 9}, layout),
            0);
}

}  // namespace
}  // namespace skim::cuda
