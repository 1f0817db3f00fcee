#include "kernels/cpu/packed_weight.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <string>
#include <utility>

#include "base/check.h"
#include "base/checked_math.h"
#include "base/fp8.h"
#include "base/status_macros.h"
#include "kernels/cpu/weight_places.h"

namespace skim {
namespace {

// 127 x 255 per input must stay below 2^31.
constexpr int64_t kMaxIntegerInputs = 65536;

std::string Name(int64_t rows, int64_t cols) {
  return std::to_string(rows) + " x " + std::to_string(cols);
}

absl::Status NotFinite() {
  return absl::InvalidArgumentError("weight: NaN or infinity cannot be quantised");
}

}  // namespace

absl::StatusOr<std::unique_ptr<CpuPackedWeight>> CpuPackedWeight::Make(Dimensions dimensions,
                                                                       WeightFormat format,
                                                                       WeightShape shape) {
  const auto [rows, cols] = dimensions;
  const std::string name = Name(rows, cols);
  if (rows <= 0 || cols <= 0) {
    return absl::InvalidArgumentError("weight: cannot pack a matrix of " + name);
  }
  const bool gate_up = shape == WeightShape::kGateUp;
  if (gate_up && rows % 2 != 0) {
    return absl::InvalidArgumentError("weight: gate and up of unequal size in " + name);
  }
  // Sizes come from files: bound both before rounding them up.
  constexpr int64_t kMaxDimension = int64_t{1} << 40;
  const bool integers = format == WeightFormat::kInt8 || format == WeightFormat::kInt4;
  if (rows > kMaxDimension || cols > (integers ? kMaxIntegerInputs : kMaxDimension)) {
    return absl::InvalidArgumentError("weight: too large: " + name);
  }
  const WeightStep step = StepOf(format);
  const int64_t columns = gate_up ? rows / 2 : rows;
  const int64_t blocks = (columns + kBlockColumns - 1) / kBlockColumns * (gate_up ? 2 : 1);
  const int64_t steps = (cols + step.k - 1) / step.k;
  const auto lines = CheckedMul(blocks, steps * step.lines);
  const auto bytes = lines ? CheckedMul(*lines, kLineBytes) : lines;
  if (!bytes) return absl::InvalidArgumentError("weight: too large: " + name);

  std::unique_ptr<CpuPackedWeight> packed(
      new CpuPackedWeight(dimensions, format, shape, blocks, steps));
  SKIM_ASSIGN_OR_RETURN(packed->memory_, AlignedMemory::Allocate(*bytes));
  if (format == WeightFormat::kFp8 || format == WeightFormat::kInt8) {
    packed->scales_.resize(blocks * kBlockColumns);
  }
  return packed;
}

template <typename Fill>
bool CpuPackedWeight::FillBlocks(ThreadPool& pool, const Fill& fill) {
  std::atomic<bool> good = true;
  pool.Split(blocks_, kGroupBlocks, [&](int64_t begin, int64_t end) {
    for (int64_t block = begin; block < end; ++block) {
      int64_t first = block * kBlockColumns, last = out_features();
      if (shape_ == WeightShape::kGateUp) {
        const int64_t half = out_features() / 2, up = block % 2;
        first = up * half + block / 2 * kBlockColumns;
        last = (up + 1) * half;
      }
      const int columns = static_cast<int>(std::min(kBlockColumns, last - first));
      auto* lines = const_cast<uint8_t*>(Lines(block, 0));
      float* scales = scales_.empty() ? nullptr : scales_.data() + block * kBlockColumns;
      for (int c = 0; c < columns; ++c) {
        if (!fill(first + c, c, lines, LineStride(block), scales)) good = false;
      }
    }
  });
  return good;
}

absl::StatusOr<std::unique_ptr<CpuPackedWeight>> CpuPackedWeight::Pack(ThreadPool& pool,
                                                                       Matrix<const Bf16> weight,
                                                                       WeightFormat format,
                                                                       WeightShape shape) {
  if (weight.data == nullptr || weight.stride < weight.cols) {
    return absl::InvalidArgumentError("weight: cannot pack a matrix of " +
                                      Name(weight.rows, weight.cols));
  }
  SKIM_ASSIGN_OR_RETURN(auto packed, Make({weight.rows, weight.cols}, format, shape));
  packed->rotated_ = format == WeightFormat::kInt8;
  const auto cols = static_cast<size_t>(weight.cols);
  const bool good = packed->FillBlocks(
      pool, [&](int64_t row, int column, uint8_t* lines, int64_t stride, float* scales) {
        const std::span<const Bf16> values(weight.Row(row), cols);
        if (format == WeightFormat::kBf16) {
          PlaceBf16(values, column, lines, stride);
          return true;
        }
        std::vector<uint8_t> codes(packed->padded_k());
        const std::span<const uint8_t> own_codes(codes.data(), cols);
        if (format == WeightFormat::kInt4) {
          std::vector<Int4Group> groups((cols + kInt4Group - 1) / kInt4Group);
          if (!QuantizeInt4(values, codes.data(), groups.data())) return false;
          PlaceInt4(own_codes, groups, column, lines, stride);
          return true;
        }
        if (format == WeightFormat::kFp8) {
          scales[column] = QuantizeFp8(values, codes.data());
        } else {
          scales[column] = QuantizeInt8(values, packed->padded_k(), codes.data());
        }
        if (!std::isfinite(scales[column])) return false;
        if (format == WeightFormat::kFp8) {
          PlaceFp8(own_codes, column, lines, stride);
        } else {
          PlaceInt8(codes, column, lines, stride);  // rotation leaves no padding
        }
        return true;
      });
  if (!good) return NotFinite();
  return packed;
}

absl::StatusOr<std::unique_ptr<CpuPackedWeight>> CpuPackedWeight::Pack(
    ThreadPool& pool, const QuantizedMatrix& weight, WeightShape shape) {
  const bool fp8 = weight.format == WeightFormat::kFp8;
  if (weight.codes == nullptr || weight.scales == nullptr ||
      (!fp8 && weight.format != WeightFormat::kInt8)) {
    return absl::InvalidArgumentError("weight: cannot pack codes of " +
                                      std::string(WeightFormatName(weight.format)));
  }
  SKIM_ASSIGN_OR_RETURN(auto packed, Make({weight.rows, weight.cols}, weight.format, shape));
  const bool good = packed->FillBlocks(
      pool, [&](int64_t row, int column, uint8_t* lines, int64_t stride, float* scales) {
        const std::span<const uint8_t> codes(weight.codes + row * weight.cols,
                                             static_cast<size_t>(weight.cols));
        scales[column] = weight.scales[row];
        if (!(scales[column] > 0) || !std::isfinite(scales[column])) return false;
        if (fp8 && std::ranges::any_of(codes, [](uint8_t c) { return IsNan(Fp8{c}); })) {
          return false;
        }
        (fp8 ? PlaceFp8 : PlaceInt8)(codes, column, lines, stride);
        return true;
      });
  if (!good) return NotFinite();
  return packed;
}

void CpuPackedWeight::ReadRow(int64_t row, float* out) const {
  SKIM_CHECK(format() == WeightFormat::kBf16);
  const int64_t block = row / kBlockColumns, stride = LineStride(block);
  const uint8_t* line = Lines(block, 0) + 4 * (row % kBlockColumns);
  const int64_t cols = in_features();
  for (int64_t k = 0; k < cols; k += 2, line += stride) {
    const auto* pair = reinterpret_cast<const uint16_t*>(line);
    out[k] = ToFloat(Bf16{pair[0]});
    if (k + 1 < cols) out[k + 1] = ToFloat(Bf16{pair[1]});
  }
}

}  // namespace skim
