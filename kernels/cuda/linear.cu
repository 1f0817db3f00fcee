// y = x W^T on tensor cores, for any number of rows and every weight format. A block computes 16
// rows x 16 features (or 8 gate and 8 up features); its four warps share K, each takes a tile of
// inputs in turn, and their sums are added in a fixed order at the end. So a row's sum never
// depends on how many rows there are. Weights stream from memory once per 16 rows, straight into
// registers.
#include <type_traits>

#include "kernels/cuda/device_util.cuh"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/mma.cuh"

namespace skim::cuda {
namespace {

constexpr int kRows = 16;
constexpr int kFeatures = 16;
constexpr int kWarps = 4;
constexpr int kThreads = kWarps * kWarp;
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
  using Sum = std::conditional_t<kFormat == WeightFormat::kInt8, int32_t, float>;
};

// A block's shared memory.
template <WeightFormat kFormat>
struct Scratch {
  alignas(kPiece) std::byte rows[2][kRows * Shape<kFormat>::kStride];  // two stages
  typename Shape<kFormat>::Sum sums[kWarps][kRows][kFeatures];  // the warps' parts of the product
};

// Brings stage `stage` of the rows from `first_row` on. Aligned: rows begin on 16 bytes and K
// takes whole pieces, so a piece is all there or not at all.
template <WeightFormat kFormat, bool kAligned>
__device__ void LoadStage(const LinearInput& x, int64_t first_row, int64_t stage, std::byte* to) {
  using S = Shape<kFormat>;
  constexpr int kPieces = S::kStageBytes / kPiece;
  const int64_t end = x.cols * S::kInputBytes;
  for (int piece = threadIdx.x; piece < kRows * kPieces; piece += kThreads) {
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

// The groups of the inputs that a lane's four sums of a product share.
struct GroupsOfInputs {
  InputGroup rows[2];    // of rows lane / 4 and lane / 4 + 8
  Int4Group columns[2];  // of features 2 (lane % 4), + 1
};

// c += product of fragment i.
template <WeightFormat kFormat, typename Sum, typename Lane>
__device__ void MultiplyFragment(Sum (&c)[4], const uint32_t (&a)[4], const Lane& b, int i,
                                 const GroupsOfInputs& groups) {
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
      const InputGroup& row = groups.rows[e / 2];
      const Int4Group& column = groups.columns[e % 2];
      c[e] = fmaf(static_cast<float>(whole[e]), FromBf16(column.scale) * row.scale, c[e]);
      c[e] = fmaf(FromBf16(column.offset), row.sum, c[e]);
    }
  }
}

// int4: of fragment i of a tile of inputs; nothing for other formats.
template <WeightFormat kFormat>
__device__ GroupsOfInputs GroupsAt(const LinearInput& x, const WeightView& w, int64_t feature_tile,
                                   int64_t group) {
  GroupsOfInputs groups = {};
  if constexpr (kFormat == WeightFormat::kInt4) {
    const int lane = threadIdx.x % kWarp;
    const int64_t per_row = w.padded_inputs() / kInt4Group;
    for (int half = 0; half < 2; ++half) {
      const int64_t row = int64_t{blockIdx.y} * kRows + lane / 4 + 8 * half;
      if (row < x.rows) groups.rows[half] = x.groups[row * per_row + group];
      groups.columns[half] = w.groups[(feature_tile * per_row + group) * WeightView::kTileFeatures +
                                      lane % 4 * 2 + half];
    }
  }
  return groups;
}

// Leaves a 16 x 16 product in s.sums.
template <WeightFormat kFormat, bool kAligned>
__device__ void Multiply(const LinearInput& x, const WeightView& w, Scratch<kFormat>& s) {
  using S = Shape<kFormat>;
  using Lane = typename S::Lane;
  const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
  const int64_t first_row = int64_t{blockIdx.y} * kRows;
  const int64_t stages = (w.input_tiles + kWarps - 1) / kWarps;
  const int64_t first_tile = 2 * int64_t{blockIdx.x};  // of features
  const Lane* tiles[2];
  for (int n = 0; n < 2; ++n) {
    tiles[n] =
        reinterpret_cast<const Lane*>(w.data) + (first_tile + n) * w.input_tiles * kWarp + lane;
  }
  typename S::Sum c[2][4] = {};
  LoadStage<kFormat, kAligned>(x, first_row, 0, s.rows[0]);
  for (int64_t stage = 0; stage < stages; ++stage) {
    if (stage + 1 < stages) {
      LoadStage<kFormat, kAligned>(x, first_row, stage + 1, s.rows[(stage + 1) % 2]);
      WaitAsync<1>();
    } else {
      WaitAsync<0>();
    }
    __syncthreads();
    const int64_t input_tile = stage * kWarps + warp;
    if (input_tile < w.input_tiles) {
      const std::byte* at =
          s.rows[stage % 2] + lane % 16 * S::kStride + warp * S::kTileBytes + lane / 16 * kPiece;
      uint32_t a[S::kFragments][4];
      for (int i = 0; i < S::kFragments; ++i) LoadMatrixA(a[i], at + i * kFragment);
      for (int n = 0; n < 2; ++n) {
        const Lane b = __ldg(tiles[n] + input_tile * kWarp);
        for (int i = 0; i < S::kFragments; ++i) {
          MultiplyFragment<kFormat>(
              c[n], a[i], b, i,
              GroupsAt<kFormat>(x, w, first_tile + n, input_tile * S::kFragments + i));
        }
      }
    }
    __syncthreads();  // before the next turn overwrites what was read
  }
  for (int n = 0; n < 2; ++n) {
    for (int e = 0; e < 4; ++e) {
      s.sums[warp][lane / 4 + e / 2 * 8][n * 8 + lane % 4 * 2 + e % 2] = c[n][e];
    }
  }
  __syncthreads();
}

// Element (row, feature) of the block's product.
template <WeightFormat kFormat>
__device__ float Total(const Scratch<kFormat>& s, const LinearInput& x, const WeightView& w,
                       int row, int feature) {
  typename Shape<kFormat>::Sum total = 0;
  for (int warp = 0; warp < kWarps; ++warp) total += s.sums[warp][row][feature];
  auto value = static_cast<float>(total);
  if constexpr (kFormat == WeightFormat::kFp8 || kFormat == WeightFormat::kInt8) {
    value *= w.scales[int64_t{blockIdx.x} * kFeatures + feature];
  }
  if constexpr (kFormat == WeightFormat::kInt8) {
    value *= x.scales[int64_t{blockIdx.y} * kRows + row];
  }
  return value;
}

template <WeightFormat kFormat, bool kAligned>
__global__ void __launch_bounds__(kThreads)
    Linear(LinearInput x, WeightView w, const float* bias, bool accumulate, Matrix<float> y) {
  __shared__ Scratch<kFormat> scratch;
  Multiply<kFormat, kAligned>(x, w, scratch);
  for (int i = threadIdx.x; i < kRows * kFeatures; i += kThreads) {
    const int64_t row = int64_t{blockIdx.y} * kRows + i / kFeatures;
    const int64_t feature = int64_t{blockIdx.x} * kFeatures + i % kFeatures;
    if (row >= y.rows || feature >= w.features) continue;
    float value = Total(scratch, x, w, i / kFeatures, i % kFeatures);
    if (bias != nullptr) value += bias[feature];
    float& out = y.data[row * y.stride + feature];
    out = accumulate ? out + value : value;
  }
}

template <WeightFormat kFormat, bool kAligned>
__global__ void __launch_bounds__(kThreads)
    LinearSwiGlu(LinearInput x, WeightView w, const float* bias, Matrix<Bf16> y) {
  __shared__ Scratch<kFormat> scratch;
  Multiply<kFormat, kAligned>(x, w, scratch);
  constexpr int kColumns = kFeatures / 2;
  for (int i = threadIdx.x; i < kRows * kColumns; i += kThreads) {
    const int64_t row = int64_t{blockIdx.y} * kRows + i / kColumns;
    const int64_t column = int64_t{blockIdx.x} * kColumns + i % kColumns;
    if (row >= y.rows || column >= y.cols) continue;
    float gate = Total(scratch, x, w, i / kColumns, i % kColumns);
    float up = Total(scratch, x, w, i / kColumns, kColumns + i % kColumns);
    if (bias != nullptr) {
      gate += bias[column];
      up += bias[y.cols + column];
    }
    y.data[row * y.stride + column] = RoundToBf16(gate / (1.0f + expf(-gate)) * up);
  }
}

bool IsAligned(const LinearInput& x, int input_bytes) {
  return reinterpret_cast<uintptr_t>(x.data) % kPiece == 0 && x.stride % kPiece == 0 &&
         x.cols * input_bytes % kPiece == 0;
}

dim3 Grid(int64_t rows, int64_t features, int per_block) {
  return {static_cast<unsigned>((features + per_block - 1) / per_block),
          static_cast<unsigned>((rows + kRows - 1) / kRows)};
}

// Calls f.operator()<format, aligned>() for the kernel to take. Codes are always aligned.
template <typename F>
void ForKernel(const LinearInput& x, WeightFormat format, const F& f) {
  const bool aligned = IsAligned(x, sizeof(Bf16));
  switch (format) {
    case WeightFormat::kBf16:
      return aligned ? f.template operator()<WeightFormat::kBf16, true>()
                     : f.template operator()<WeightFormat::kBf16, false>();
    case WeightFormat::kFp8:
      return aligned ? f.template operator()<WeightFormat::kFp8, true>()
                     : f.template operator()<WeightFormat::kFp8, false>();
    case WeightFormat::kInt8:
      return f.template operator()<WeightFormat::kInt8, true>();
    case WeightFormat::kInt4:
      return f.template operator()<WeightFormat::kInt4, true>();
  }
}

}  // namespace

void LaunchLinear(Stream stream, const LinearInput& x, const WeightView& weight, const float* bias,
                  bool accumulate, Matrix<float> y) {
  const dim3 grid = Grid(y.rows, weight.features, kFeatures);
  ForKernel(x, weight.format, [&]<WeightFormat kFormat, bool kAligned>() {
    Linear<kFormat, kAligned><<<grid, kThreads, 0, stream>>>(x, weight, bias, accumulate, y);
  });
}

void LaunchLinearSwiGlu(Stream stream, const LinearInput& x, const WeightView& weight,
                        const float* bias, Matrix<Bf16> y) {
  const dim3 grid = Grid(y.rows, y.cols, kFeatures / 2);
  ForKernel(x, weight.format, [&]<WeightFormat kFormat, bool kAligned>() {
    LinearSwiGlu<kFormat, kAligned><<<grid, kThreads, 0, stream>>>(x, weight, bias, y);
  });
}

}  // namespace skim::cuda
