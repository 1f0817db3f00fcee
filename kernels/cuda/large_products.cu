// What stands around a product of many rows: weights from the operand's order to rows, bias,
// SwiGlu.
#include "kernels/cuda/device_util.cuh"
#include "kernels/cuda/launch.h"

namespace skim::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kPieceInputs = 8;  // of 16 bytes

// A thread per feature and 8 inputs: of each of four lanes the word with its pair of them. A warp
// reads a tile and writes 64 bytes of each of its features.
__global__ void __launch_bounds__(kThreads)
    Unpack(WeightView w, int64_t first, int64_t features, Bf16* rows) {
  constexpr int kFeatures = WeightView::kTileFeatures;
  constexpr int kPieces = WeightView::TileInputs(WeightFormat::kBf16) / kPieceInputs;
  static_assert(kFeatures * kPieces == kWarp && WeightView::LaneBytes(WeightFormat::kBf16) == 16);
  const int lane = threadIdx.x % kWarp, feature = lane / kPieces, piece = lane % kPieces;
  const int64_t tile = int64_t{blockIdx.y} * (kThreads / kWarp) + threadIdx.x / kWarp;
  const int64_t row = int64_t{blockIdx.x} * kFeatures + feature;
  const int64_t input = (tile * kPieces + piece) * kPieceInputs;
  if (tile >= w.input_tiles || row >= features || input >= w.inputs) return;
  const int64_t at = ((first / kFeatures + blockIdx.x) * w.input_tiles + tile) * kWarp;
  const auto* words = reinterpret_cast<const uint32_t*>(w.data) + (at + 4 * feature) * 4 + piece;
  *reinterpret_cast<uint4*>(rows + row * w.inputs + input) = {__ldg(words), __ldg(words + 4),
                                                              __ldg(words + 8), __ldg(words + 12)};
}

__global__ void __launch_bounds__(kThreads) Bias(const float* bias, bool add, Matrix<float> y) {
  const int64_t column = int64_t{blockIdx.y} * kThreads + threadIdx.x;
  if (column >= y.cols) return;
  float& out = y.data[int64_t{blockIdx.x} * y.stride + column];
  out = add ? out + bias[column] : bias[column];
}

__global__ void __launch_bounds__(kThreads)
    SwiGlu(Matrix<const float> products, int64_t first, const float* bias, Matrix<Bf16> y) {
  constexpr int kTile = WeightView::kTileFeatures;
  const int64_t i = int64_t{blockIdx.y} * kThreads + threadIdx.x;
  const int64_t column = first + i;
  if (2 * i >= products.cols || column >= y.cols) return;
  const float* at =
      products.data + int64_t{blockIdx.x} * products.stride + i / kTile * 2 * kTile + i % kTile;
  float gate = at[0], up = at[kTile];
  if (bias != nullptr) {
    gate += bias[column];
    up += bias[y.cols + column];
  }
  y.data[int64_t{blockIdx.x} * y.stride + column] = RoundToBf16(gate / (1.0f + expf(-gate)) * up);
}

dim3 Grid(int64_t rows, int64_t columns, int64_t per_block) {
  return {static_cast<unsigned>(rows),
          static_cast<unsigned>((columns + per_block - 1) / per_block)};
}

}  // namespace

void LaunchUnpack(Stream stream, const WeightView& weight, int64_t first, int64_t features,
                  Bf16* rows) {
  const int64_t tiles = (features + WeightView::kTileFeatures - 1) / WeightView::kTileFeatures;
  Unpack<<<Grid(tiles, weight.input_tiles, kThreads / kWarp), kThreads, 0, stream>>>(
      weight, first, features, rows);
}

void LaunchBias(Stream stream, const float* bias, bool add, Matrix<float> y) {
  Bias<<<Grid(y.rows, y.cols, kThreads), kThreads, 0, stream>>>(bias, add, y);
}

void LaunchSwiGlu(Stream stream, Matrix<const float> products, int64_t first, const float* bias,
                  Matrix<Bf16> y) {
  SwiGlu<<<Grid(y.rows, products.cols / 2, kThreads), kThreads, 0, stream>>>(products, first, bias,
                                                                             y);
}

}  // namespace skim::cuda
