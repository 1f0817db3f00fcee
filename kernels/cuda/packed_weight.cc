#include "kernels/cuda/packed_weight.h"

#include <string>

#include "base/checked_math.h"
#include "base/status_macros.h"

namespace skim::cuda {
namespace {

constexpr int kTileFeatures = WeightView::kTileFeatures;
constexpr int64_t kBlockFeatures = 2 * kTileFeatures;  // what a block of linear.cu computes

int64_t RoundUp(int64_t n, int64_t to) { return (n + to - 1) / to * to; }

// Where row r of a kGateUp matrix goes in the interleaved order.
int64_t InterleavedFeature(int64_t r, int64_t half) {
  const int64_t up = r >= half ? 1 : 0, column = r - up * half;
  return (2 * (column / kTileFeatures) + up) * kTileFeatures + column % kTileFeatures;
}

}  // namespace

absl::StatusOr<std::unique_ptr<CudaPackedWeight>> CudaPackedWeight::Pack(Runtime* runtime,
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
  const int64_t half = weight.rows / 2;
  const int64_t features =
      gate_up ? 2 * RoundUp(half, kTileFeatures) : RoundUp(weight.rows, kBlockFeatures);
  WeightView view = {nullptr, weight.rows, weight.cols,
                     RoundUp(weight.cols, WeightView::kTileInputs) / WeightView::kTileInputs};
  const auto elements = CheckedMul(features, view.input_tiles * WeightView::kTileInputs);
  const auto bytes = elements ? CheckedMul(*elements, int64_t{sizeof(Bf16)}) : elements;
  if (!bytes) return absl::InvalidArgumentError("weight: too large: " + dims);

  std::vector<Bf16> packed(static_cast<size_t>(*elements));
  for (int64_t r = 0; r < weight.rows; ++r) {
    const int64_t feature = gate_up ? InterleavedFeature(r, half) : r;
    const Bf16* row = weight.Row(r);
    for (int64_t k = 0; k < weight.cols; ++k) {
      packed[static_cast<size_t>(view.Element(feature, k))] = row[k];
    }
  }
  const auto size = static_cast<size_t>(*bytes);
  SKIM_ASSIGN_OR_RETURN(void* const data, runtime->Allocate(size));
  view.data = static_cast<const Bf16*>(data);
  std::unique_ptr<CudaPackedWeight> result(new CudaPackedWeight(runtime, view, size, data));
  runtime->Upload(data, packed.data(), size);
  SKIM_RETURN_IF_ERROR(runtime->Wait());
  return result;
}

}  // namespace skim::cuda
