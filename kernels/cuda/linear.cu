// y = x W^T on tensor cores, for any number of rows. A block computes 16 rows x 16 features
// (or 8 gate and 8 up features); its four warps share K: of every 128 inputs each takes 32, and
// their sums are added in a fixed order at the end. So a row's sum never depends on how many
// rows there are. Weights stream from memory once per 16 rows, straight into registers.
#include "kernels/cuda/device_util.cuh"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/mma.cuh"

namespace skim::cuda {
namespace {

constexpr int kRows = 16;
constexpr int kFeatures = 16;
constexpr int kWarps = 4;
constexpr int kThreads = kWarps * kWarp;
constexpr int kStageInputs = kWarps * WeightView::kTileInputs;  // 128
constexpr int kStageStride = kStageInputs + 8;  // elements; ldmatrix rows on different banks
constexpr int kPieces = kStageInputs / 8;       // of 16 bytes in a row

struct Tile {
  Bf16 x[2][kRows * kStageStride];  // two stages of rows
};

// Brings stage `stage` of the rows from `first_row` on. Aligned: rows begin on 16 bytes and K
// is a multiple of 8, so a piece of 8 is all there or not at all.
template <bool kAligned>
__device__ void LoadStage(Matrix<const Bf16> x, int64_t first_row, int64_t stage, Bf16* to) {
  for (int piece = threadIdx.x; piece < kRows * kPieces; piece += kThreads) {
    const int row = piece / kPieces, column = piece % kPieces * 8;
    const int64_t k = stage * kStageInputs + column;
    const bool row_valid = first_row + row < x.rows;
    const Bf16* from = x.data + (row_valid ? first_row + row : first_row) * x.stride;
    Bf16* at = to + row * kStageStride + column;
    if constexpr (kAligned) {
      const bool valid = row_valid && k < x.cols;
      CopyAsync16(at, from + (valid ? k : 0), valid);
    } else {
      for (int i = 0; i < 8; ++i) at[i] = row_valid && k + i < x.cols ? from[k + i] : Bf16{};
    }
  }
  CommitAsync();
}

// The four warps' parts of a 16 x 16 product in `sums` [warp][row][feature].
template <bool kAligned>
__device__ void Multiply(Matrix<const Bf16> x, const WeightView& w, Tile& tile,
                         float (&sums)[kWarps][kRows][kFeatures]) {
  const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
  const int64_t first_row = int64_t{blockIdx.y} * kRows;
  const int64_t stages = (w.input_tiles + kWarps - 1) / kWarps;
  const uint4* tiles[2];
  for (int n = 0; n < 2; ++n) {
    tiles[n] =
        reinterpret_cast<const uint4*>(w.data + (2 * int64_t{blockIdx.x} + n) * w.input_tiles *
                                                    WeightView::kTileElements) +
        lane;
  }
  float c[2][4] = {};
  LoadStage<kAligned>(x, first_row, 0, tile.x[0]);
  for (int64_t stage = 0; stage < stages; ++stage) {
    if (stage + 1 < stages) {
      LoadStage<kAligned>(x, first_row, stage + 1, tile.x[(stage + 1) % 2]);
      WaitAsync<1>();
    } else {
      WaitAsync<0>();
    }
    __syncthreads();
    const int64_t input_tile = stage * kWarps + warp;
    if (input_tile < w.input_tiles) {
      const Bf16* rows = tile.x[stage % 2] + warp * WeightView::kTileInputs +
                         lane % 16 * kStageStride + lane / 16 * 8;
      uint32_t a[2][4];
      LoadMatrixA(a[0], rows);
      LoadMatrixA(a[1], rows + 16);
      for (int n = 0; n < 2; ++n) {
        const uint4 b = __ldg(tiles[n] + input_tile * kWarp);
        MultiplyBf16(c[n], a[0], b.x, b.y);
        MultiplyBf16(c[n], a[1], b.z, b.w);
      }
    }
    __syncthreads();  // before the next turn overwrites what was read
  }
  for (int n = 0; n < 2; ++n) {
    for (int e = 0; e < 4; ++e) {
      sums[warp][lane / 4 + e / 2 * 8][n * 8 + lane % 4 * 2 + e % 2] = c[n][e];
    }
  }
  __syncthreads();
}

__device__ float Total(const float (&sums)[kWarps][kRows][kFeatures], int row, int feature) {
  float total = 0;
  for (int warp = 0; warp < kWarps; ++warp) total += sums[warp][row][feature];
  return total;
}

template <bool kAligned>
__global__ void __launch_bounds__(kThreads)
    Linear(Matrix<const Bf16> x, WeightView w, const float* bias, bool accumulate,
           Matrix<float> y) {
  __shared__ __align__(16) Tile tile;
  __shared__ float sums[kWarps][kRows][kFeatures];
  Multiply<kAligned>(x, w, tile, sums);
  for (int i = threadIdx.x; i < kRows * kFeatures; i += kThreads) {
    const int64_t row = int64_t{blockIdx.y} * kRows + i / kFeatures;
    const int64_t feature = int64_t{blockIdx.x} * kFeatures + i % kFeatures;
    if (row >= y.rows || feature >= w.features) continue;
    float value = Total(sums, i / kFeatures, i % kFeatures);
    if (bias != nullptr) value += bias[feature];
    float& out = y.data[row * y.stride + feature];
    out = accumulate ? out + value : value;
  }
}

template <bool kAligned>
__global__ void __launch_bounds__(kThreads)
    LinearSwiGlu(Matrix<const Bf16> x, WeightView w, const float* bias, Matrix<Bf16> y) {
  __shared__ __align__(16) Tile tile;
  __shared__ float sums[kWarps][kRows][kFeatures];
  Multiply<kAligned>(x, w, tile, sums);
  constexpr int kColumns = kFeatures / 2;
  for (int i = threadIdx.x; i < kRows * kColumns; i += kThreads) {
    const int64_t row = int64_t{blockIdx.y} * kRows + i / kColumns;
    const int64_t column = int64_t{blockIdx.x} * kColumns + i % kColumns;
    if (row >= y.rows || column >= y.cols) continue;
    float gate = Total(sums, i / kColumns, i % kColumns);
    float up = Total(sums, i / kColumns, kColumns + i % kColumns);
    if (bias != nullptr) {
      gate += bias[column];
      up += bias[y.cols + column];
    }
    y.data[row * y.stride + column] = RoundToBf16(gate / (1.0f + expf(-gate)) * up);
  }
}

bool IsAligned(Matrix<const Bf16> x) {
  return reinterpret_cast<uintptr_t>(x.data) % 16 == 0 && x.stride % 8 == 0 && x.cols % 8 == 0;
}

dim3 Grid(int64_t rows, int64_t features, int per_block) {
  return {static_cast<unsigned>((features + per_block - 1) / per_block),
          static_cast<unsigned>((rows + kRows - 1) / kRows)};
}

}  // namespace

void LaunchLinear(Stream stream, Matrix<const Bf16> x, const WeightView& weight, const float* bias,
                  bool accumulate, Matrix<float> y) {
  const dim3 grid = Grid(y.rows, weight.features, kFeatures);
  auto* kernel = IsAligned(x) ? Linear<true> : Linear<false>;
  kernel<<<grid, kThreads, 0, stream>>>(x, weight, bias, accumulate, y);
}

void LaunchLinearSwiGlu(Stream stream, Matrix<const Bf16> x, const WeightView& weight,
                        const float* bias, Matrix<Bf16> y) {
  const dim3 grid = Grid(y.rows, y.cols, kFeatures / 2);
  auto* kernel = IsAligned(x) ? LinearSwiGlu<true> : LinearSwiGlu<false>;
  kernel<<<grid, kThreads, 0, stream>>>(x, weight, bias, y);
}

}  // namespace skim::cuda
