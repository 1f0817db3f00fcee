// Weights as the CPU kernels read them: one layout for AMX, AVX-512, AVX2 and plain code,
// for one row of x and for many.
//
// Columns (output features) come in blocks of 16, blocks in groups of 4 (the last group may
// be narrower). A group is one contiguous stream of 64-byte lines,
//   [padded K / step_k][step_lines][blocks of the group][64 bytes]
// and what a step holds depends on the format (column c of the block, input k of the step):
//   bf16  32 inputs, 16 lines [16 columns][2 inputs]: the operand of one VDPBF16PS and one
//         row of an AMX B tile
//   fp8   32 inputs, 8 lines of two such pairs: byte 16q + 8h + i belongs to what would be
//         16-bit lane 8q + i of bf16 line 2l + h, so unpacking bytes gives both lines
//   int8  64 inputs, 16 lines [16 columns][4 inputs], code + 128: the operand of one
//         VPDPBUSD and one row of an AMX B tile. Codes made here are those of the rotated
//         weights (hadamard.h)
//   int4  64 inputs, a line of scales and one of offsets, [2 groups of inputs][16 columns] in
//         bf16, then 8 lines [16 columns][4 bytes]: the low halves are inputs 8l .. 8l+3, the
//         high halves 8l+4 .. 8l+7
// K is padded to whole steps, columns to 16, with zero bytes: x is zero there, too. kGateUp puts
// gate block j at 2j and the up block of the same columns at 2j + 1.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/cpu/memory.h"
#include "kernels/cpu/thread_pool.h"
#include "kernels/matrix.h"
#include "kernels/ops.h"
#include "kernels/weight.h"

namespace skim {

inline constexpr int64_t kBlockColumns = 16;
inline constexpr int64_t kGroupBlocks = 4;
inline constexpr int64_t kLineBytes = 64;

struct WeightStep {
  int64_t k;      // inputs
  int64_t lines;  // per block
};

constexpr WeightStep StepOf(WeightFormat format) {
  constexpr WeightStep kSteps[kWeightFormats] = {{32, 16}, {32, 8}, {64, 16}, {64, 10}};
  return kSteps[static_cast<int>(format)];
}

class CpuPackedWeight final : public PackedWeight {
 public:
  // Copies `weight` [out_features, in_features], quantised to `format`; its memory is free
  // afterwards. INVALID_ARGUMENT for empty shapes, kGateUp with an odd number of rows, too
  // many inputs for an int32 sum, and non-finite weights where they cannot be represented.
  static absl::StatusOr<std::unique_ptr<CpuPackedWeight>> Pack(ThreadPool& pool,
                                                               Matrix<const Bf16> weight,
                                                               WeightFormat format,
                                                               WeightShape shape);
  // The same for codes that exist already.
  static absl::StatusOr<std::unique_ptr<CpuPackedWeight>> Pack(ThreadPool& pool,
                                                               const QuantizedMatrix& weight,
                                                               WeightShape shape);

  size_t bytes() const override { return memory_.size() + scales_.size() * sizeof(float); }
  WeightShape shape() const { return shape_; }
  int64_t blocks() const { return blocks_; }
  int64_t steps() const { return steps_; }
  int64_t padded_k() const { return steps_ * step_.k; }
  const WeightStep& step() const { return step_; }

  // int8: x has to be rotated as the weights were.
  bool rotated() const { return rotated_; }

  // fp8, int8: scale of each packed column, [16 * blocks]. Else null.
  const float* column_scales() const { return scales_.empty() ? nullptr : scales_.data(); }

  // One row of a kPlain bf16 weight, out[in_features]: an embedding looked up in its packed
  // form.
  void ReadRow(int64_t row, float* out) const;

  // First line of a step of a block; the next line is LineStride(block) bytes further, and so
  // is the first line of the next step from the last of this one.
  const uint8_t* Lines(int64_t block, int64_t step) const {
    const int64_t group_begin = block / kGroupBlocks * kGroupBlocks;
    return reinterpret_cast<const uint8_t*>(memory_.data()) +
           (group_begin * steps_ * step_.lines + block - group_begin) * kLineBytes +
           step * step_.lines * LineStride(block);
  }
  int64_t LineStride(int64_t block) const {
    const int64_t after = blocks_ - block / kGroupBlocks * kGroupBlocks;
    return (after < kGroupBlocks ? after : kGroupBlocks) * kLineBytes;
  }

 private:
  struct Dimensions {
    int64_t rows, cols;
  };
  CpuPackedWeight(Dimensions dimensions, WeightFormat format, WeightShape shape, int64_t blocks,
                  int64_t steps)
      : PackedWeight(dimensions.rows, dimensions.cols, format),
        shape_(shape),
        step_(StepOf(format)),
        blocks_(blocks),
        steps_(steps) {}

  // Memory for a weight of these dimensions, still zero.
  static absl::StatusOr<std::unique_ptr<CpuPackedWeight>> Make(Dimensions dimensions,
                                                               WeightFormat format,
                                                               WeightShape shape);
  // Calls fill(row, column, lines, stride, scales) for every row of the weight with the block
  // it goes to, on all threads; false if one call returned false.
  template <typename Fill>
  bool FillBlocks(ThreadPool& pool, const Fill& fill);

  WeightShape shape_;
  bool rotated_ = false;
  WeightStep step_;
  int64_t blocks_;
  int64_t steps_;
  AlignedMemory memory_;
  std::vector<float> scales_;
};

}  // namespace skim
