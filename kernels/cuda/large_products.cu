// What stands around a product of many rows: weights from the operand's order to rows, and what
// follows on the sums.
#include "kernels/cuda/device_util.cuh"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/linear_result.cuh"
#include "kernels/cuda/mma.cuh"

namespace skim::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kTileFeatures = WeightView::kTileFeatures;
constexpr int kLaneWords = 4;  // of 4 bytes
constexpr int kPieceBytes = 16;

template <WeightFormat kFormat>
struct Row {
  static constexpr int kNumberBytes = kFormat == WeightFormat::kInt8 ? 1 : 2;
  static constexpr int kPieceNumbers = kPieceBytes / kNumberBytes;
  static constexpr int kTilePieces = WeightView::TileInputs(kFormat) / kPieceNumbers;
  static constexpr int kWordPieces = kTilePieces / kLaneWords;  // that a word of 4 lanes holds
};

// A thread per feature and word: word i of the feature's four lanes has neighbouring inputs, which
// are one piece of a row, or of fp8 two. A warp reads a tile.
template <WeightFormat kFormat>
__global__ void __launch_bounds__(kThreads)
    Unpack(WeightView w, int64_t first, int64_t inputs, std::byte* rows) {
  using R = Row<kFormat>;
  static_assert(WeightView::LaneBytes(kFormat) == 4 * kLaneWords &&
                kTileFeatures * kLaneWords == kWarp);
  const int lane = threadIdx.x % kWarp, feature = lane / kLaneWords, word = lane % kLaneWords;
  const int64_t tile = int64_t{blockIdx.y} * (kThreads / kWarp) + threadIdx.x / kWarp;
  if (tile >= w.input_tiles) return;
  const int64_t at = ((first / kTileFeatures + blockIdx.x) * w.input_tiles + tile) * kWarp;
  const auto* from = reinterpret_cast<const uint32_t*>(w.data) + (at + 4 * feature) * 4 + word;
  const uint32_t words[] = {__ldg(from), __ldg(from + 4), __ldg(from + 8), __ldg(from + 12)};
  std::byte* row =
      rows + (int64_t{blockIdx.x} * kTileFeatures + feature) * inputs * R::kNumberBytes;
  const int64_t piece = tile * R::kTilePieces + word * R::kWordPieces;
  const auto put = [&](int64_t to, const uint32_t (&numbers)[4]) {
    if (to * R::kPieceNumbers >= inputs) return;
    *reinterpret_cast<uint4*>(row + to * kPieceBytes) = {numbers[0], numbers[1], numbers[2],
                                                         numbers[3]};
  };
  if constexpr (kFormat == WeightFormat::kFp8) {
    uint32_t low[4], high[4];
    for (int i = 0; i < 4; ++i) {
      low[i] = Fp8PairToBf16(__byte_perm(words[i], 0, 0x1404));
      high[i] = Fp8PairToBf16(__byte_perm(words[i], 0, 0x3424));
    }
    put(piece, low);
    put(piece + 1, high);
  } else {
    static_assert(R::kWordPieces == 1);
    put(piece, words);
  }
}

template <WeightFormat kFormat>
__device__ float SumAt(const ProductSums& sums, const LinearInput& x, const WeightView& w,
                       int64_t row, int64_t at) {
  const auto* data = static_cast<const ProductSum<kFormat>*>(sums.data);
  return Scaled<kFormat>(data[row * sums.features + at], x, w, row, sums.first + at);
}

template <WeightFormat kFormat>
__global__ void __launch_bounds__(kThreads)
    LinearOf(ProductSums sums, LinearInput x, WeightView w, const float* bias, bool accumulate,
             Matrix<float> y) {
  const int64_t row = blockIdx.x, at = int64_t{blockIdx.y} * kThreads + threadIdx.x;
  if (at >= sums.features || sums.first + at >= y.cols) return;
  PutLinear(SumAt<kFormat>(sums, x, w, row, at), bias, accumulate, sums.first + at,
            y.data + row * y.stride);
}

// Tiles of gates and ups take turns.
template <WeightFormat kFormat>
__global__ void __launch_bounds__(kThreads)
    LinearSwiGluOf(ProductSums sums, LinearInput x, WeightView w, const float* bias,
                   Matrix<Bf16> y) {
  const int64_t row = blockIdx.x, i = int64_t{blockIdx.y} * kThreads + threadIdx.x;
  const int64_t column = sums.first / 2 + i;
  if (2 * i >= sums.features || column >= y.cols) return;
  const int64_t at = i / kTileFeatures * 2 * kTileFeatures + i % kTileFeatures;
  const float gate = SumAt<kFormat>(sums, x, w, row, at);
  const float up = SumAt<kFormat>(sums, x, w, row, at + kTileFeatures);
  y.data[row * y.stride + column] = GatedUp(gate, up, bias, column, y.cols);
}

dim3 Grid(int64_t rows, int64_t columns, int64_t per_block) {
  return {static_cast<unsigned>(rows),
          static_cast<unsigned>((columns + per_block - 1) / per_block)};
}

// Calls f.operator()<format>().
template <typename F>
void ForFormat(WeightFormat format, const F& f) {
  switch (format) {
    case WeightFormat::kBf16:
      return f.template operator()<WeightFormat::kBf16>();
    case WeightFormat::kFp8:
      return f.template operator()<WeightFormat::kFp8>();
    case WeightFormat::kInt8:
      return f.template operator()<WeightFormat::kInt8>();
    case WeightFormat::kInt4:  // LargeProducts has none
      return;
  }
}

}  // namespace

void LaunchUnpack(LaunchQueue& queue, const WeightView& weight, int64_t first, int64_t features,
                  int64_t inputs, void* rows) {
  ForFormat(weight.format, [&]<WeightFormat kFormat>() {
    queue.Add(Unpack<kFormat>, Grid(features / kTileFeatures, weight.input_tiles, kThreads / kWarp),
              kThreads, 0, weight, first, inputs, static_cast<std::byte*>(rows));
  });
}

void LaunchLinearOf(LaunchQueue& queue, const ProductSums& sums, const LinearInput& x,
                    const WeightView& weight, const float* bias, bool accumulate, Matrix<float> y) {
  ForFormat(weight.format, [&]<WeightFormat kFormat>() {
    queue.Add(LinearOf<kFormat>, Grid(x.rows, sums.features, kThreads), kThreads, 0, sums, x,
              weight, bias, accumulate, y);
  });
}

void LaunchLinearSwiGluOf(LaunchQueue& queue, const ProductSums& sums, const LinearInput& x,
                          const WeightView& weight, const float* bias, Matrix<Bf16> y) {
  ForFormat(weight.format, [&]<WeightFormat kFormat>() {
    queue.Add(LinearSwiGluOf<kFormat>, Grid(x.rows, sums.features / 2, kThreads), kThreads, 0, sums,
              x, weight, bias, y);
  });
}

}  // namespace skim::cuda
