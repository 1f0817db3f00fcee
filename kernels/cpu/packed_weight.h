// Weights as the CPU kernels read them: one layout for AMX, AVX-512, AVX2 and plain code.
//
// Columns (output features) come in blocks of 16, blocks in groups of 4 (the last group may
// be narrower). A group is one contiguous stream:
//   [padded K / 2][blocks of the group][16 columns][2]  bf16
// so 64 bytes hold 16 columns x 2 neighbours along K: the operand of one VDPBF16PS and one
// row of an AMX B tile. K is padded with zeros to a multiple of 32 (one AMX tile), columns
// to 16. kGateUp puts gate block j at 2j and the up block of the same columns at 2j + 1.
//
// An int8 format would hold [K / 4][blocks][16][4] in the same groups: a kernel walks 64-byte
// lines and only its line loader knows what is in them.
#pragma once

#include <cstdint>
#include <memory>

#include "absl/status/statusor.h"
#include "kernels/cpu/memory.h"
#include "kernels/cpu/thread_pool.h"
#include "kernels/matrix.h"
#include "kernels/ops.h"
#include "kernels/weight.h"

namespace skim {

inline constexpr int64_t kBlockColumns = 16;
inline constexpr int64_t kGroupBlocks = 4;
inline constexpr int64_t kLineElements = 2 * kBlockColumns;  // bf16 in 64 bytes
inline constexpr int64_t kPadK = 32;

class CpuPackedWeight final : public PackedWeight {
 public:
  // Copies `weight` [out_features, in_features]; its memory is free afterwards.
  // INVALID_ARGUMENT for empty shapes and for kGateUp with an odd number of rows.
  static absl::StatusOr<std::unique_ptr<CpuPackedWeight>> Pack(ThreadPool& pool,
                                                               Matrix<const Bf16> weight,
                                                               WeightShape shape);

  size_t bytes() const override { return memory_.size(); }
  WeightShape shape() const { return shape_; }
  int64_t blocks() const { return blocks_; }
  int64_t pairs() const { return pairs_; }  // padded K / 2
  int64_t padded_k() const { return 2 * pairs_; }

  // One row of a kPlain weight, out[in_features]: an embedding looked up in its packed form.
  void ReadRow(int64_t row, float* out) const;

  // First line of a block; its next pair of K is LineStride(block) elements further.
  const uint16_t* Block(int64_t block) const {
    const int64_t group_begin = block / kGroupBlocks * kGroupBlocks;
    return reinterpret_cast<const uint16_t*>(memory_.data()) +
           (group_begin * pairs_ + block - group_begin) * kLineElements;
  }
  int64_t LineStride(int64_t block) const {
    const int64_t after = blocks_ - block / kGroupBlocks * kGroupBlocks;
    return (after < kGroupBlocks ? after : kGroupBlocks) * kLineElements;
  }

 private:
  CpuPackedWeight(Matrix<const Bf16> weight, WeightShape shape, int64_t blocks, int64_t pairs,
                  AlignedMemory memory)
      : PackedWeight(weight.rows, weight.cols, WeightFormat::kBf16),
        shape_(shape),
        blocks_(blocks),
        pairs_(pairs),
        memory_(std::move(memory)) {}

  void CopyBlock(Matrix<const Bf16> weight, int64_t block);

  WeightShape shape_;
  int64_t blocks_;
  int64_t pairs_;
  AlignedMemory memory_;
};

}  // namespace skim
