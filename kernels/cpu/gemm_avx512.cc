// AVX-512 BF16 and VNNI. One VDPBF16PS takes a line of bf16 weights (16 columns x 2 k), one
// VPDPBUSD a line of int8 weights (16 columns x 4 k), and four bytes of x broadcast to all
// lanes. 6 rows x 4 blocks = 24 accumulators, 4 operands of weights and a broadcast fill the
// 32 registers: more than enough independent sums to hide the instructions' latency, and 10
// loads for 24 products.
#include "kernels/cpu/gemm_avx512.h"

#include <immintrin.h>

#include "kernels/cpu/gemm_prefetch.h"
#include "kernels/cpu/simd_exp.h"
#include "kernels/cpu/vec_avx512.h"

namespace skim {
namespace {

constexpr int kMaxRows = kAvx512TileRows;

[[gnu::always_inline]] inline __m512i BroadcastFour(const char* x) {
  int four;
  __builtin_memcpy(&four, x, sizeof four);
  return _mm512_set1_epi32(four);
}

// How a format's line becomes operands, each for four bytes of x, and what multiplies them.
struct Bf16Lines {
  using Sum = __m512;
  static constexpr int kOperands = 1;
  static constexpr int kBytesOfX = 2;
  [[gnu::always_inline]] void Load(const uint8_t* line, __m512i (&out)[kOperands]) const {
    out[0] = _mm512_load_si512(line);
  }
  [[gnu::always_inline]] static Sum Dot(Sum sum, __m512i x, __m512i w) {
    return _mm512_dpbf16_ps(sum, reinterpret_cast<__m512bh>(w), reinterpret_cast<__m512bh>(x));
  }
};

struct Fp8Lines : Bf16Lines {
  static constexpr int kOperands = 2;
  VecAvx512::Codes<KvFormat::kFp8> codes;
  [[gnu::always_inline]] void Load(const uint8_t* line, __m512i (&out)[kOperands]) const {
    codes.Load(reinterpret_cast<const std::byte*>(line), &out[0], &out[1]);
  }
};

struct Int8Lines {
  using Sum = __m512i;
  static constexpr int kOperands = 1;
  static constexpr int kBytesOfX = 1;
  [[gnu::always_inline]] void Load(const uint8_t* line, __m512i (&out)[kOperands]) const {
    out[0] = _mm512_load_si512(line);
  }
  [[gnu::always_inline]] static Sum Dot(Sum sum, __m512i x, __m512i w) {
    return _mm512_dpbusd_epi32(sum, w, x);
  }
};

[[gnu::always_inline]] inline void Zero(__m512& v) { v = _mm512_setzero_ps(); }
[[gnu::always_inline]] inline void Zero(__m512i& v) { v = _mm512_setzero_si512(); }
[[gnu::always_inline]] inline void Read(const float* from, __m512& v) { v = _mm512_loadu_ps(from); }
[[gnu::always_inline]] inline void Read(const float* from, __m512i& v) {
  v = _mm512_loadu_si512(from);
}
[[gnu::always_inline]] inline void Write(float* to, __m512 v) { _mm512_storeu_ps(to, v); }
[[gnu::always_inline]] inline void Write(float* to, __m512i v) { _mm512_storeu_si512(to, v); }

template <int R, int C, class Lines>
void Tile(const GemmTile& t) {
  constexpr int kOperands = Lines::kOperands;
  const Lines lines;
  typename Lines::Sum acc[R][C];
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
    for (int c = 0; c < C; ++c) {
      t.from_zero ? Zero(acc[r][c]) : Read(t.acc + r * kTileColumns + c * 16, acc[r][c]);
    }
  }
  const uint8_t* line = t.w;
  const char* x = static_cast<const char*>(t.x);
  const int64_t x_stride = t.x_stride * Lines::kBytesOfX;
  WeightPrefetch prefetch(t);
#pragma GCC unroll 2
  for (int64_t l = 0; l < t.lines; ++l, x += 4 * kOperands, line += t.w_stride) {
    prefetch.Lines();
    if constexpr (kOperands == 1) {
      __m512i w[C][1];
#pragma GCC unroll 4
      for (int c = 0; c < C; ++c) lines.Load(line + c * 64, w[c]);
#pragma GCC unroll 8
      for (int r = 0; r < R; ++r) {
        const __m512i four = BroadcastFour(x + r * x_stride);
#pragma GCC unroll 4
        for (int c = 0; c < C; ++c) acc[r][c] = Lines::Dot(acc[r][c], four, w[c][0]);
      }
    } else {  // no registers for the operands of all blocks: broadcasts come from the cache
#pragma GCC unroll 4
      for (int c = 0; c < C; ++c) {
        __m512i w[kOperands];
        lines.Load(line + c * 64, w);
#pragma GCC unroll 2
        for (int o = 0; o < kOperands; ++o) {
#pragma GCC unroll 8
          for (int r = 0; r < R; ++r) {
            acc[r][c] = Lines::Dot(acc[r][c], BroadcastFour(x + r * x_stride + 4 * o), w[o]);
          }
        }
      }
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
    for (int c = 0; c < C; ++c) Write(t.acc + r * kTileColumns + c * 16, acc[r][c]);
  }
}

// Half of a line of bf16: one group's scales or offsets of 16 columns.
[[gnu::always_inline]] inline __m512 SixteenBf16(__m512i line, int half) {
  const __m256i bf16 =
      half == 0 ? _mm512_castsi512_si256(line) : _mm512_extracti64x4_epi64(line, 1);
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bf16), 16));
}

constexpr int kInt4GroupLines = kInt4Group / 8;
constexpr int kInt4StepLines = 2 + 2 * kInt4GroupLines;

// Blocks [block, block + C) of an int4 tile, a step at a time. The integer sums of a group and
// the sums of all groups both stay in registers, so C is 2 for many rows.
template <int R, int C>
class Int4Blocks {
 public:
  // Lines [from, to), whole steps.
  [[gnu::always_inline]] static void Run(const GemmTile& t, int block, int64_t from, int64_t to,
                                         WeightPrefetch& prefetch) {
    Int4Blocks blocks(t, block, from);
    for (int64_t l = from; l < to; l += kInt4StepLines) blocks.Step(prefetch);
    blocks.Finish();
  }

 private:
  // With few rows the heads of a step are loaded before its codes: the processor's own
  // prefetching follows lines that are asked for in ascending order. Many rows leave no
  // registers for that.
  static constexpr bool kHeadsFirst = R <= 3;

  [[gnu::always_inline]] Int4Blocks(const GemmTile& t, int block, int64_t from)
      : t_(t),
        block_(block),
        line_(t.w + from * t.w_stride + block * 64),
        x_(static_cast<const char*>(t.x) + from / kInt4StepLines * 2 * kInt4Group),
        x_group_(t.x_groups + from / kInt4StepLines * 2) {
    const bool from_zero = t.from_zero && from == 0;
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
      for (int c = 0; c < C; ++c) from_zero ? Zero(acc_[r][c]) : Read(Acc(r, c), acc_[r][c]);
    }
  }

  [[gnu::always_inline]] void Finish() {
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
      for (int c = 0; c < C; ++c) Write(Acc(r, c), acc_[r][c]);
    }
  }

  [[gnu::always_inline]] float* Acc(int r, int c) const {
    return t_.acc + r * kTileColumns + (block_ + c) * 16;
  }

  [[gnu::always_inline]] void Step(WeightPrefetch& prefetch) {
    const uint8_t* const scales = line_;
    const uint8_t* const offsets = line_ + t_.w_stride;
    __m512i scale_lines[C], offset_lines[C];
    if constexpr (kHeadsFirst) {
#pragma GCC unroll 4
      for (int c = 0; c < C; ++c) {
        scale_lines[c] = _mm512_load_si512(scales + c * 64);
        offset_lines[c] = _mm512_load_si512(offsets + c * 64);
      }
    }
    line_ += 2 * t_.w_stride;
    prefetch.Lines(kHeadsFirst ? 2 : kInt4StepLines);
    if constexpr (kHeadsFirst) {
      __m512i sum[R][C];
      Products(prefetch, sum);
      AddGroup(sum, [&](int c) { return SixteenBf16(scale_lines[c], 0); },
               [&](int c) { return SixteenBf16(offset_lines[c], 0); });
      Products(prefetch, sum);
      AddGroup(sum, [&](int c) { return SixteenBf16(scale_lines[c], 1); },
               [&](int c) { return SixteenBf16(offset_lines[c], 1); });
    } else {
#pragma GCC unroll 1
      for (int half = 0; half < 2; ++half) {
        __m512i sum[R][C];
        Products(prefetch, sum);
        const auto at = [half](const uint8_t* line, int c) {
          return SixteenBf16(_mm512_castsi256_si512(_mm256_load_si256(
                                 reinterpret_cast<const __m256i*>(line + c * 64 + half * 32))),
                             0);
        };
        AddGroup(sum, [&](int c) { return at(scales, c); }, [&](int c) { return at(offsets, c); });
      }
    }
  }

  // The sums over one group of inputs.
  [[gnu::always_inline]] void Products(WeightPrefetch& prefetch, __m512i (&sum)[R][C]) {
    const __m512i low = _mm512_set1_epi8(15);
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
      for (int c = 0; c < C; ++c) Zero(sum[r][c]);
    }
#pragma GCC unroll 4
    for (int i = 0; i < kInt4GroupLines; ++i, x_ += 8, line_ += t_.w_stride) {
      if constexpr (kHeadsFirst) prefetch.Lines();
#pragma GCC unroll 4
      for (int c = 0; c < C; ++c) {
        const __m512i codes = _mm512_load_si512(line_ + c * 64);
        const __m512i first = _mm512_and_si512(codes, low);
        const __m512i second = _mm512_and_si512(_mm512_srli_epi16(codes, 4), low);
#pragma GCC unroll 8
        for (int r = 0; r < R; ++r) {
          const char* x_row = x_ + r * t_.x_stride;
          sum[r][c] = _mm512_dpbusd_epi32(sum[r][c], first, BroadcastFour(x_row));
          sum[r][c] = _mm512_dpbusd_epi32(sum[r][c], second, BroadcastFour(x_row + 4));
        }
      }
    }
  }

  template <class Scale, class Offset>
  [[gnu::always_inline]] void AddGroup(const __m512i (&sum)[R][C], const Scale& scale_of,
                                       const Offset& offset_of) {
#pragma GCC unroll 4
    for (int c = 0; c < C; ++c) {
      const __m512 scale = scale_of(c), offset = offset_of(c);
#pragma GCC unroll 8
      for (int r = 0; r < R; ++r) {
        const InputGroup& in = x_group_[r * t_.x_groups_stride];
        const __m512 both = _mm512_mul_ps(scale, _mm512_set1_ps(in.scale));
        acc_[r][c] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum[r][c]), both, acc_[r][c]);
        acc_[r][c] = _mm512_fmadd_ps(offset, _mm512_set1_ps(in.sum), acc_[r][c]);
      }
    }
    ++x_group_;
  }

  const GemmTile& t_;
  const int block_;
  const uint8_t* line_;
  const char* x_;
  const InputGroup* x_group_;
  __m512 acc_[R][C];
};

// Where the blocks do not fit at once, stretches short enough to stay in the L1 cache are walked
// twice.
template <int R, int C>
void Int4Tile(const GemmTile& t) {
  constexpr int kTogether = R > 3 && C > 2 ? 2 : C;
  constexpr int64_t kStretch = 4 * kInt4StepLines;
  WeightPrefetch prefetch(t, kTogether < C ? 2 : 1);
  if constexpr (kTogether == C) {
    Int4Blocks<R, C>::Run(t, 0, 0, t.lines, prefetch);
  } else {
    for (int64_t from = 0; from < t.lines; from += kStretch) {
      const int64_t to = from + kStretch < t.lines ? from + kStretch : t.lines;
      Int4Blocks<R, kTogether>::Run(t, 0, from, to, prefetch);
      Int4Blocks<R, C - kTogether>::Run(t, kTogether, from, to, prefetch);
    }
  }
}

template <class Lines>
struct LinesTile {
  template <int R, int C>
  static void Run(const GemmTile& t) {
    Tile<R, C, Lines>(t);
  }
};
struct NibbleTile {
  template <int R, int C>
  static void Run(const GemmTile& t) {
    Int4Tile<R, C>(t);
  }
};

template <class Kernel>
void AnyTile(const GemmTile& t) {
  using Function = void (*)(const GemmTile&);
#define SKIM_WIDTHS(R)                                                                  \
  {                                                                                     \
    Kernel::template Run<R, 1>, Kernel::template Run<R, 2>, Kernel::template Run<R, 3>, \
        Kernel::template Run<R, 4>                                                      \
  }
  static constexpr Function kTiles[kMaxRows][4] = {SKIM_WIDTHS(1), SKIM_WIDTHS(2), SKIM_WIDTHS(3),
                                                   SKIM_WIDTHS(4), SKIM_WIDTHS(5), SKIM_WIDTHS(6)};
#undef SKIM_WIDTHS
  kTiles[t.rows - 1][t.width - 1](t);
}

// A code takes longer to turn into bf16 than to multiply: with several tiles of rows it is done
// once for all of them.
constexpr FormatKernels Fp8Format() {
  FormatKernels format = FormatAvx512(AnyTile<LinesTile<Fp8Lines>>);
  format.expand = ExpandFp8Avx512;
  format.expand_from_rows = 2 * kMaxRows + 1;
  format.expanded_tile = AnyTile<LinesTile<Bf16Lines>>;
  return format;
}

void Finish() {}

}  // namespace

void TileInt4Avx512(const GemmTile& t) { AnyTile<NibbleTile>(t); }

const GemmKernels kGemmAvx512 = {
    .formats = {FormatAvx512(AnyTile<LinesTile<Bf16Lines>>),
                Fp8Format(),
                FormatAvx512(AnyTile<LinesTile<Int8Lines>>), Int4FormatAvx512()},
    .scale = ScaleAvx512,
    .store_linear = StoreLinearAvx512,
    .store_swiglu = StoreSwiGluAvx512,
    .quantize_row = QuantizeRowAvx512,
    .quantize_groups = QuantizeGroupsAvx512,
    .finish = Finish};

}  // namespace skim
