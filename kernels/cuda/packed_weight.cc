#include "kernels/cuda/packed_weight.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <span>
#include <string>

#include "base/checked_math.h"
#include "base/fp8.h"
#include "base/status_macros.h"
#include "kernels/weight_codes.h"

namespace skim::cuda {
namespace {

constexpr int kTileFeatures = WeightView::kTileFeatures;
constexpr int64_t kBlockFeatures = 2 * kTileFeatures;  // what a block of linear.cu computes
constexpr int kTileLanes = 32;
constexpr size_t kAlign = 256;

int64_t RoundUp(int64_t n, int64_t to) { return (n + to - 1) / to * to; }

absl::Status NotFinite() {
  return absl::InvalidArgumentError("weight: NaN or infinity cannot be quantised");
}

std::string Name(int64_t rows, int64_t cols) {
  return std::to_string(rows) + " x " + std::to_string(cols);
}

}  // namespace

// A weight on the host, row after row, and then on the device.
class CudaPackedWeight::Builder {
 public:
  static absl::StatusOr<Builder> Make(int64_t rows, int64_t cols, WeightFormat format,
                                      WeightShape shape) {
    if (rows <= 0 || cols <= 0) {
      return absl::InvalidArgumentError("weight: cannot pack a matrix of " + Name(rows, cols));
    }
    const bool gate_up = shape == WeightShape::kGateUp;
    if (gate_up && rows % 2 != 0) {
      return absl::InvalidArgumentError("weight: gate and up of unequal size in " +
                                        Name(rows, cols));
    }
    // Sizes come from files: bound both before rounding them up. Integer sums must fit int32.
    constexpr int64_t kMaxDimension = int64_t{1} << 40, kMaxIntegerInputs = 65536;
    const bool integers = format == WeightFormat::kInt8 || format == WeightFormat::kInt4;
    if (rows > kMaxDimension || cols > (integers ? kMaxIntegerInputs : kMaxDimension)) {
      return absl::InvalidArgumentError("weight: too large: " + Name(rows, cols));
    }
    Builder builder;
    WeightView& view = builder.view_;
    view.format = format;
    view.features = rows;
    view.inputs = cols;
    view.input_tiles =
        RoundUp(cols, WeightView::TileInputs(format)) / WeightView::TileInputs(format);
    builder.half_ = gate_up ? rows / 2 : 0;
    const int64_t features =
        gate_up ? 2 * RoundUp(rows / 2, kTileFeatures) : RoundUp(rows, kBlockFeatures);
    const auto bytes = CheckedMul(features / kTileFeatures * view.input_tiles,
                                  int64_t{kTileLanes * WeightView::LaneBytes(format)});
    if (!bytes) return absl::InvalidArgumentError("weight: too large: " + Name(rows, cols));
    builder.numbers_.resize(static_cast<size_t>(*bytes));
    if (format == WeightFormat::kInt4) {
      builder.groups_.resize(static_cast<size_t>(features * view.padded_inputs() / kInt4Group));
    } else if (format != WeightFormat::kBf16) {
      builder.scales_.resize(static_cast<size_t>(features));
    }
    return builder;
  }

  int64_t padded_inputs() const { return view_.padded_inputs(); }
  void SetRotated() { view_.rotated = true; }

  void PutBf16(int64_t row, std::span<const Bf16> numbers) {
    const int64_t feature = PackedFeature(row);
    for (size_t k = 0; k < numbers.size(); ++k) {
      std::memcpy(&numbers_[view_.At(feature, static_cast<int64_t>(k)).byte], &numbers[k],
                  sizeof(Bf16));
    }
  }
  void PutCodes(int64_t row, std::span<const uint8_t> codes) {
    const int64_t feature = PackedFeature(row);
    for (size_t k = 0; k < codes.size(); ++k) {
      const WeightView::Place place = view_.At(feature, static_cast<int64_t>(k));
      numbers_[place.byte] |= static_cast<uint8_t>(codes[k] << place.shift);
    }
  }
  void PutScale(int64_t row, float scale) { scales_[PackedFeature(row)] = scale; }
  void PutGroups(int64_t row, std::span<const Int4Group> groups) {
    const int64_t feature = PackedFeature(row), per_row = view_.padded_inputs() / kInt4Group;
    for (size_t g = 0; g < groups.size(); ++g) {
      const int64_t at =
          (feature / kTileFeatures * per_row + static_cast<int64_t>(g)) * kTileFeatures +
          feature % kTileFeatures;
      groups_[at] = groups[g];
    }
  }

  // Numbers, then scales or groups, in one piece of memory.
  absl::StatusOr<std::unique_ptr<CudaPackedWeight>> Upload(Runtime* runtime) {
    const size_t beside = (numbers_.size() + kAlign - 1) / kAlign * kAlign;
    const size_t scale_bytes = scales_.size() * sizeof(float);
    const size_t group_bytes = groups_.size() * sizeof(Int4Group);
    const size_t bytes = beside + scale_bytes + group_bytes;
    SKIM_ASSIGN_OR_RETURN(void* const memory, runtime->Allocate(bytes));
    auto* device = static_cast<std::byte*>(memory);
    view_.data = device;
    if (scale_bytes > 0) view_.scales = reinterpret_cast<const float*>(device + beside);
    if (group_bytes > 0) view_.groups = reinterpret_cast<Int4Group*>(device + beside);
    std::unique_ptr<CudaPackedWeight> result(new CudaPackedWeight(runtime, view_, bytes, memory));
    runtime->Upload(device, numbers_.data(), numbers_.size());
    runtime->Upload(device + beside, scales_.data(), scale_bytes);
    runtime->Upload(device + beside, groups_.data(), group_bytes);
    SKIM_RETURN_IF_ERROR(runtime->Wait());
    return result;
  }

 private:
  // kGateUp interleaves tiles.
  int64_t PackedFeature(int64_t row) const {
    if (half_ == 0) return row;
    const int64_t up = row >= half_ ? 1 : 0, column = row - up * half_;
    return (2 * (column / kTileFeatures) + up) * kTileFeatures + column % kTileFeatures;
  }

  WeightView view_;
  int64_t half_ = 0;  // rows of the gate; 0: kPlain
  std::vector<uint8_t> numbers_;
  std::vector<float> scales_;
  std::vector<Int4Group> groups_;
};

absl::StatusOr<std::unique_ptr<CudaPackedWeight>> CudaPackedWeight::Pack(Runtime* runtime,
                                                                         Matrix<const Bf16> weight,
                                                                         WeightFormat format,
                                                                         WeightShape shape) {
  if (weight.data == nullptr || weight.stride < weight.cols) {
    return absl::InvalidArgumentError("weight: cannot pack a matrix of " +
                                      Name(weight.rows, weight.cols));
  }
  SKIM_ASSIGN_OR_RETURN(Builder builder, Builder::Make(weight.rows, weight.cols, format, shape));
  const auto cols = static_cast<size_t>(weight.cols);
  std::vector<uint8_t> codes(static_cast<size_t>(builder.padded_inputs()));
  const std::span<const uint8_t> own_codes(codes.data(), cols);
  std::vector<Int4Group> groups((cols + kInt4Group - 1) / kInt4Group);
  for (int64_t r = 0; r < weight.rows; ++r) {
    const std::span<const Bf16> row(weight.Row(r), cols);
    float scale = 1;
    switch (format) {
      case WeightFormat::kBf16:
        builder.PutBf16(r, row);
        continue;
      case WeightFormat::kInt4:
        if (!QuantizeInt4(row, codes.data(), groups.data())) return NotFinite();
        builder.PutGroups(r, groups);
        builder.PutCodes(r, own_codes);
        continue;
      case WeightFormat::kFp8:
        scale = QuantizeFp8(row, codes.data());
        if (!std::isfinite(scale)) return NotFinite();
        builder.PutCodes(r, own_codes);
        break;
      case WeightFormat::kInt8:
        builder.SetRotated();
        scale = QuantizeInt8(row, builder.padded_inputs(), codes.data());
        if (!std::isfinite(scale)) return NotFinite();
        builder.PutCodes(r, codes);  // rotation leaves no padding
        break;
    }
    builder.PutScale(r, scale);
  }
  return builder.Upload(runtime);
}

absl::StatusOr<std::unique_ptr<CudaPackedWeight>> CudaPackedWeight::Pack(
    Runtime* runtime, const QuantizedMatrix& weight, WeightShape shape) {
  const bool fp8 = weight.format == WeightFormat::kFp8;
  if (weight.codes == nullptr || weight.scales == nullptr ||
      (!fp8 && weight.format != WeightFormat::kInt8)) {
    return absl::InvalidArgumentError("weight: cannot pack codes of " +
                                      std::string(WeightFormatName(weight.format)));
  }
  SKIM_ASSIGN_OR_RETURN(Builder builder,
                        Builder::Make(weight.rows, weight.cols, weight.format, shape));
  for (int64_t r = 0; r < weight.rows; ++r) {
    const std::span<const uint8_t> codes(weight.codes + r * weight.cols,
                                         static_cast<size_t>(weight.cols));
    if (!(weight.scales[r] > 0) || !std::isfinite(weight.scales[r])) return NotFinite();
    if (fp8 && std::ranges::any_of(codes, [](uint8_t c) { return IsNan(Fp8{c}); })) {
      return NotFinite();
    }
    builder.PutCodes(r, codes);
    builder.PutScale(r, weight.scales[r]);
  }
  return builder.Upload(runtime);
}

}  // namespace skim::cuda
