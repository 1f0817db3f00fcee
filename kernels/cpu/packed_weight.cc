#include "kernels/cpu/packed_weight.h"

#include <algorithm>
#include <string>
#include <utility>

#include "base/checked_math.h"
#include "base/status_macros.h"

namespace skim {

absl::StatusOr<std::unique_ptr<CpuPackedWeight>> CpuPackedWeight::Pack(ThreadPool& pool,
                                                                       Matrix<const Bf16> weight,
                                                                       WeightShape shape) {
  const std::string dims = std::to_string(weight.rows) + " x " + std::to_string(weight.cols);
  if (weight.rows <= 0 || weight.cols <= 0 || weight.data == nullptr ||
      weight.stride < weight.cols) {
    return absl::InvalidArgumentError("weight: cannot pack a matrix of " + dims);
  }
  const bool gate_up = shape == WeightShape::kGateUp;
  if (gate_up && weight.rows % 2 != 0) {
    return absl::InvalidArgumentError("weight: gate and up of unequal size in " + dims);
  }
  // Sizes come from files: bound both before rounding them up.
  constexpr int64_t kMaxDimension = int64_t{1} << 40;
  if (weight.rows > kMaxDimension || weight.cols > kMaxDimension) {
    return absl::InvalidArgumentError("weight: too large: " + dims);
  }
  const int64_t columns = gate_up ? weight.rows / 2 : weight.rows;
  const int64_t blocks = (columns + kBlockColumns - 1) / kBlockColumns * (gate_up ? 2 : 1);
  const int64_t pairs = (weight.cols + kPadK - 1) / kPadK * kPadK / 2;
  const auto lines = CheckedMul(blocks, pairs);
  const auto bytes = lines ? CheckedMul(*lines, kLineElements * int64_t{sizeof(Bf16)}) : lines;
  if (!bytes) return absl::InvalidArgumentError("weight: too large: " + dims);

  SKIM_ASSIGN_OR_RETURN(AlignedMemory memory, AlignedMemory::Allocate(*bytes));
  std::unique_ptr<CpuPackedWeight> packed(
      new CpuPackedWeight(weight, shape, blocks, pairs, std::move(memory)));
  pool.Split(blocks, kGroupBlocks, [&](int64_t begin, int64_t end) {
    for (int64_t block = begin; block < end; ++block) packed->CopyBlock(weight, block);
  });
  return packed;
}

void CpuPackedWeight::CopyBlock(Matrix<const Bf16> weight, int64_t block) {
  int64_t first = block * kBlockColumns;
  int64_t last = weight.rows;
  if (shape_ == WeightShape::kGateUp) {
    const int64_t half = weight.rows / 2;
    const int64_t up = block % 2;
    first = up * half + block / 2 * kBlockColumns;
    last = (up + 1) * half;
  }
  const int64_t columns = std::min(kBlockColumns, last - first);
  const int64_t stride = LineStride(block);
  auto* lines = const_cast<uint16_t*>(Block(block));
  // What padding covers stays zero, as allocated.
  for (int64_t k = 0; k < weight.cols; ++k) {
    uint16_t* line = lines + k / 2 * stride + k % 2;
    for (int64_t c = 0; c < columns; ++c) line[2 * c] = weight.Row(first + c)[k].bits;
  }
}

void CpuPackedWeight::ReadRow(int64_t row, float* out) const {
  const int64_t block = row / kBlockColumns, stride = LineStride(block);
  const uint16_t* line = Block(block) + 2 * (row % kBlockColumns);
  const int64_t cols = in_features();
  for (int64_t k = 0; k < cols; k += 2, line += stride) {
    out[k] = ToFloat(Bf16{line[0]});
    if (k + 1 < cols) out[k + 1] = ToFloat(Bf16{line[1]});
  }
}

}  // namespace skim
