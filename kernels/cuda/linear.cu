// y = x W^T on tensor cores, for any number of rows and every weight format. A block computes up to
// kTileRows or four times as many rows x 16 features (or 8 gate and 8 up features); its four warps
// share K, each takes a tile of inputs in turn, and their sums are added in a fixed order at the
// end. So a row's sum never depends on how many rows there are. Weights stream from memory straight
// into registers, each of them once for up to 64 rows.
#include <type_traits>

#include "kernels/cuda/device_util.cuh"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/linear_result.cuh"
#include "kernels/cuda/mma.cuh"

namespace skim::cuda {
namespace {

constexpr int kTileRows = 16;  // of a product
constexpr int kMostTiles = 4;
constexpr int kFeatures = 16;
constexpr int kWarps = 4;
constexpr int kThreads = kWarps * kWarp;
// Leaves 80 registers where weights are all there is to wait for, and enough for four times the
// sums.
template <int kTiles>
constexpr int kMinBlocks = kTiles == 1 ? 6 : 3;
constexpr int kPiece = 16;     // bytes that are copied at a time
constexpr int kFragment = 32;  // bytes of a row in one A operand

template <WeightFormat kFormat>
struct Shape {
  static constexpr bool kCodes = kFormat == WeightFormat::kInt8 || kFormat == WeightFormat::kInt4;
  static constexpr int kInputBytes = kCodes ? 1 : 2;
  static constexpr int kTileBytes = WeightView::TileInputs(kFormat) * kInputBytes;  // of a row
  static constexpr int kFragments = kTileBytes / kFragment;
  static constexpr int kStageBytes = kWarps * kTileBytes;
  static constexpr int kStride = kStageBytes + kPiece;  // ldmatrix rows on different banks
  using Lane = std::conditional_t<WeightView::LaneBytes(kFormat) == 16, uint4, uint2>;
};

// A block's shared memory.
template <WeightFormat kFormat, int kTiles>
union Scratch {
  static constexpr int kRows = kTiles * kTileRows;

  alignas(kPiece) std::byte rows[2][kRows * Shape<kFormat>::kStride];  // two stages
  // In the end: the warps' parts of the product.
  ProductSum<kFormat> sums[kWarps][kRows][kFeatures];
};

// Brings stage `stage` of `rows` rows from `first_row` on. Aligned: rows begin on 16 bytes and K
// takes whole pieces, so a piece is all there or not at all.
template <WeightFormat kFormat, bool kAligned>
__device__ void LoadStage(const LinearInput& x, int64_t first_row, int rows, int64_t stage,
                          std::byte* to) {
  using S = Shape<kFormat>;
  constexpr int kPieces = S::kStageBytes / kPiece;
  const int64_t end = x.cols * S::kInputBytes;
  for (int piece = threadIdx.x; piece < rows * kPieces; piece += kThreads) {
    const int row = piece / kPieces, column = piece % kPieces * kPiece;
    const int64_t byte = stage * S::kStageBytes + column;
    const bool row_valid = first_row + row < x.rows;
    const std::byte* from = x.data + (row_valid ? first_row + row : first_row) * x.stride;
    std::byte* at = to + row * S::kStride + column;
    if constexpr (kAligned) {
      const bool valid = row_valid && byte < end;
      CopyAsync16(at, from + (valid ? byte : 0), valid);
    } else {
      for (int i = 0; i < kPiece; i += 2) {
        const bool valid = row_valid && byte + i < end;
        *reinterpret_cast<uint16_t*>(at + i) =
            valid ? *reinterpret_cast<const uint16_t*>(from + byte + i) : uint16_t{0};
      }
    }
  }
  CommitAsync();
}

// Word i of what a lane loaded.
__device__ uint32_t Word(const uint4& lane, int i) {
  return i == 0 ? lane.x : i == 1 ? lane.y : i == 2 ? lane.z : lane.w;
}
__device__ uint32_t Word(const uint2& lane, int i) { return i == 0 ? lane.x : lane.y; }

// int4: the groups of the inputs that a lane's four sums of a product share.
struct RowGroups {
  InputGroup of[2];  // of rows lane / 4 and lane / 4 + 8
};
struct ColumnGroups {
  Int4Group of[2];  // of features 2 (lane % 4), + 1
};

// c += product of fragment i.
template <WeightFormat kFormat, typename Sum, typename Lane>
__device__ void MultiplyFragment(Sum (&c)[4], const uint32_t (&a)[4], const Lane& b, int i,
                                 const RowGroups& rows, const ColumnGroups& columns) {
  if constexpr (kFormat == WeightFormat::kBf16) {
    MultiplyBf16(c, a, Word(b, 2 * i), Word(b, 2 * i + 1));
  } else if constexpr (kFormat == WeightFormat::kFp8) {
    const uint32_t codes = Word(b, i);
    MultiplyBf16(c, a, Fp8PairToBf16(__byte_perm(codes, 0, 0x1404)),
                 Fp8PairToBf16(__byte_perm(codes, 0, 0x3424)));
  } else if constexpr (kFormat == WeightFormat::kInt8) {
    MultiplyInt8(c, a, Word(b, 2 * i), Word(b, 2 * i + 1));
  } else {
    const uint32_t codes = Word(b, i);
    int32_t whole[4] = {};
    MultiplyInt8(whole, a, codes & 0x0f0f0f0f, codes >> 4 & 0x0f0f0f0f);
    for (int e = 0; e < 4; ++e) {
      const InputGroup& row = rows.of[e / 2];
      const Int4Group& column = columns.of[e % 2];
      c[e] = fmaf(static_cast<float>(whole[e]), FromBf16(column.scale) * row.scale, c[e]);
      c[e] = fmaf(FromBf16(column.offset), row.sum, c[e]);
    }
  }
}

// Of group `group` of the inputs; nothing for formats other than int4.
template <WeightFormat kFormat>
__device__ RowGroups RowGroupsAt(const LinearInput& x, const WeightView& w, int64_t first_row,
                                 int64_t group) {
  RowGroups groups = {};
  if constexpr (kFormat == WeightFormat::kInt4) {
    for (int half = 0; half < 2; ++half) {
      const int64_t row = first_row + threadIdx.x % kWarp / 4 + 8 * half;
      if (row < x.rows) groups.of[half] = x.groups[row * (w.padded_inputs() / kInt4Group) + group];
    }
  }
  return groups;
}

template <WeightFormat kFormat>
__device__ ColumnGroups ColumnGroupsAt(const WeightView& w, int64_t feature_tile, int64_t group) {
  ColumnGroups groups = {};
  if constexpr (kFormat == WeightFormat::kInt4) {
    const int64_t first = feature_tile * (w.padded_inputs() / kInt4Group) + group;
    for (int half = 0; half < 2; ++half) {
      groups.of[half] =
          w.groups[first * WeightView::kTileFeatures + threadIdx.x % kWarp % 4 * 2 + half];
    }
  }
  return groups;
}

// What lane `lane` needs of the block's two tiles of features in one tile of inputs.
template <WeightFormat kFormat>
struct Weights {
  typename Shape<kFormat>::Lane of[2] = {};

  __device__ void Load(const WeightView& w, int64_t input_tile) {
    if (input_tile >= w.input_tiles) return;
    const auto* lanes = reinterpret_cast<const typename Shape<kFormat>::Lane*>(w.data);
    for (int n = 0; n < 2; ++n) {
      const int64_t tile = (2 * int64_t{blockIdx.x} + n) * w.input_tiles + input_tile;
      of[n] = __ldg(lanes + tile * kWarp + threadIdx.x % kWarp);
    }
  }
};

// Leaves the product of the block's rows and 16 features in s.sums.
template <WeightFormat kFormat, bool kAligned, int kTiles>
__device__ void Multiply(const LinearInput& x, const WeightView& w, Scratch<kFormat, kTiles>& s) {
  using S = Shape<kFormat>;
  const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
  const int64_t first_row = int64_t{blockIdx.y} * s.kRows;
  const int tiles =
      static_cast<int>(min(int64_t{kTiles}, (x.rows - first_row + kTileRows - 1) / kTileRows));
  const int rows = tiles * kTileRows;
  const int64_t stages = (w.input_tiles + kWarps - 1) / kWarps;
  ProductSum<kFormat> c[kTiles][2][4] = {};
  Weights<kFormat> next;
  next.Load(w, warp);
  LoadStage<kFormat, kAligned>(x, first_row, rows, 0, s.rows[0]);
  for (int64_t stage = 0; stage < stages; ++stage) {
    const int64_t input_tile = stage * kWarps + warp;
    const Weights<kFormat> b = next;
    next.Load(w, input_tile + kWarps);
    if (stage + 1 < stages) {
      LoadStage<kFormat, kAligned>(x, first_row, rows, stage + 1, s.rows[(stage + 1) % 2]);
      WaitAsync<1>();
    } else {
      WaitAsync<0>();
    }
    __syncthreads();
    if (input_tile < w.input_tiles) {
      const std::byte* at =
          s.rows[stage % 2] + lane % 16 * S::kStride + warp * S::kTileBytes + lane / 16 * kPiece;
#pragma unroll
      for (int i = 0; i < S::kFragments; ++i) {
        const int64_t group = input_tile * S::kFragments + i;
        ColumnGroups columns[2];
        for (int n = 0; n < 2; ++n) {
          columns[n] = ColumnGroupsAt<kFormat>(w, 2 * int64_t{blockIdx.x} + n, group);
        }
#pragma unroll
        for (int m = 0; m < kTiles; ++m) {
          if (m >= tiles) break;
          uint32_t a[4];
          LoadMatrixA(a, at + m * kTileRows * S::kStride + i * kFragment);
          const RowGroups row = RowGroupsAt<kFormat>(x, w, first_row + m * kTileRows, group);
          for (int n = 0; n < 2; ++n) {
            MultiplyFragment<kFormat>(c[m][n], a, b.of[n], i, row, columns[n]);
          }
        }
      }
    }
    __syncthreads();  // before the next turn overwrites what was read
  }
#pragma unroll
  for (int m = 0; m < kTiles; ++m) {
    for (int n = 0; n < 2; ++n) {
      for (int e = 0; e < 4; ++e) {
        s.sums[warp][m * kTileRows + lane / 4 + e / 2 * 8][n * 8 + lane % 4 * 2 + e % 2] =
            c[m][n][e];
      }
    }
  }
  __syncthreads();
}

// Element (row, feature) of the block's product.
template <WeightFormat kFormat, int kTiles>
__device__ float Total(const Scratch<kFormat, kTiles>& s, const LinearInput& x, const WeightView& w,
                       int row, int feature) {
  ProductSum<kFormat> total = 0;
  for (int warp = 0; warp < kWarps; ++warp) total += s.sums[warp][row][feature];
  return Scaled<kFormat>(total, x, w, int64_t{blockIdx.y} * s.kRows + row,
                         int64_t{blockIdx.x} * kFeatures + feature);
}

template <WeightFormat kFormat, bool kAligned, int kTiles, typename>
__global__ void __launch_bounds__(kThreads, kMinBlocks<kTiles>)
    Linear(LinearInput x, WeightView w, const float* bias, bool accumulate, Matrix<float> y) {
  extern __shared__ uint4 memory[];
  auto& scratch = *reinterpret_cast<Scratch<kFormat, kTiles>*>(memory);
  Multiply<kFormat, kAligned>(x, w, scratch);
  for (int i = threadIdx.x; i < scratch.kRows * kFeatures; i += kThreads) {
    const int64_t row = int64_t{blockIdx.y} * scratch.kRows + i / kFeatures;
    const int64_t feature = int64_t{blockIdx.x} * kFeatures + i % kFeatures;
    if (row >= y.rows || feature >= w.features) continue;
    PutLinear(Total(scratch, x, w, i / kFeatures, i % kFeatures), bias, accumulate, feature,
              y.data + row * y.stride);
  }
}

template <WeightFormat kFormat, bool kAligned, int kTiles, typename>
__global__ void __launch_bounds__(kThreads, kMinBlocks<kTiles>)
    LinearSwiGlu(LinearInput x, WeightView w, const float* bias, Matrix<Bf16> y) {
  extern __shared__ uint4 memory[];
  auto& scratch = *reinterpret_cast<Scratch<kFormat, kTiles>*>(memory);
  Multiply<kFormat, kAligned>(x, w, scratch);
  constexpr int kColumns = kFeatures / 2;
  for (int i = threadIdx.x; i < scratch.kRows * kColumns; i += kThreads) {
    const int64_t row = int64_t{blockIdx.y} * scratch.kRows + i / kColumns;
    const int64_t column = int64_t{blockIdx.x} * kColumns + i % kColumns;
    if (row >= y.rows || column >= y.cols) continue;
    const float gate = Total(scratch, x, w, i / kColumns, i % kColumns);
    const float up = Total(scratch, x, w, i / kColumns, kColumns + i % kColumns);
    y.data[row * y.stride + column] = GatedUp(gate, up, bias, column, y.cols);
  }
}

bool IsAligned(const LinearInput& x, int input_bytes) {
  return reinterpret_cast<uintptr_t>(x.data) % kPiece == 0 && x.stride % kPiece == 0 &&
         x.cols * input_bytes % kPiece == 0;
}

dim3 Grid(int64_t rows, int tiles, int64_t features, int per_block) {
  const int64_t block_rows = tiles * kTileRows;
  return {static_cast<unsigned>((features + per_block - 1) / per_block),
          static_cast<unsigned>((rows + block_rows - 1) / block_rows)};
}

// Calls f.operator()<format, aligned, tiles>() for the kernel to take. Codes are always aligned.
template <typename F>
void ForKernel(const LinearInput& x, WeightFormat format, const F& f) {
  const bool aligned = IsAligned(x, sizeof(Bf16));
  const auto sized = [&]<WeightFormat kFormat, bool kAligned>() {
    if (x.rows <= kTileRows) return f.template operator()<kFormat, kAligned, 1>();
    f.template operator()<kFormat, kAligned, kMostTiles>();
  };
  switch (format) {
    case WeightFormat::kBf16:
      return aligned ? sized.template operator()<WeightFormat::kBf16, true>()
                     : sized.template operator()<WeightFormat::kBf16, false>();
    case WeightFormat::kFp8:
      return aligned ? sized.template operator()<WeightFormat::kFp8, true>()
                     : sized.template operator()<WeightFormat::kFp8, false>();
    case WeightFormat::kInt8:
      return sized.template operator()<WeightFormat::kInt8, true>();
    case WeightFormat::kInt4:
      return sized.template operator()<WeightFormat::kInt4, true>();
  }
}

template <WeightFormat kFormat, int kTiles>
using Shared = DynamicShared<sizeof(Scratch<kFormat, kTiles>)>;

}  // namespace

void LaunchLinear(LaunchQueue& queue, const LinearInput& x, const WeightView& weight,
                  const float* bias, bool accumulate, Matrix<float> y) {
  ForKernel(x, weight.format, [&]<WeightFormat kFormat, bool kAligned, int kTiles>() {
    using Bytes = Shared<kFormat, kTiles>;
    LaunchWithShared<Bytes>(Linear<kFormat, kAligned, kTiles, Bytes>,
                            Grid(y.rows, kTiles, weight.features, kFeatures), kThreads, queue, x,
                            weight, bias, accumulate, y);
  });
}

void LaunchLinearSwiGlu(LaunchQueue& queue, const LinearInput& x, const WeightView& weight,
                        const float* bias, Matrix<Bf16> y) {
  ForKernel(x, weight.format, [&]<WeightFormat kFormat, bool kAligned, int kTiles>() {
    using Bytes = Shared<kFormat, kTiles>;
    LaunchWithShared<Bytes>(LinearSwiGlu<kFormat, kAligned, kTiles, Bytes>,
                            Grid(y.rows, kTiles, y.cols, kFeatures / 2), kThreads, queue, x, weight,
                            bias, y);
  });
}

}  // namespace skim::cuda
