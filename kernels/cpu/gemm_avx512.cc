// AVX-512 BF16 and VNNI. One VDPBF16PS takes a line of bf16 weights (16 columns x 2 k), one
// VPDPBUSD a line of int8 weights (16 columns x 4 k), and four bytes of x broadcast to all
// lanes. 6 rows x 4 blocks = 24 accumulators, 4 operands of weights and a broadcast fill the
// 32 registers: more than enough independent sums to hide the instructions' latency, and 10
// loads for 24 products.
#include "kernels/cpu/gemm_avx512.h"

#include <immintrin.h>

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

struct Prefetcher {
  const char* next;
  [[gnu::always_inline]] void Lines(const GemmTile& t) {
    if (t.prefetch_lines == 4 && next + 256 <= t.prefetch_end) {  // one tile of rows
      _mm_prefetch(next, _MM_HINT_T1);
      _mm_prefetch(next + 64, _MM_HINT_T1);
      _mm_prefetch(next + 128, _MM_HINT_T1);
      _mm_prefetch(next + 192, _MM_HINT_T1);
      next += 256;
      return;
    }
    for (int i = 0; i < t.prefetch_lines && next < t.prefetch_end; ++i, next += 64) {
      _mm_prefetch(next, _MM_HINT_T1);
    }
  }
};

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
  Prefetcher prefetch{t.prefetch};
#pragma GCC unroll 2
  for (int64_t l = 0; l < t.lines; ++l, x += 4 * kOperands, line += t.w_stride) {
    prefetch.Lines(t);
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

[[gnu::always_inline]] inline __m512 SixteenBf16(const uint8_t* from) {
  const __m256i bf16 = _mm256_load_si256(reinterpret_cast<const __m256i*>(from));
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bf16), 16));
}

// Blocks [block, block + C) of an int4 tile. The integer sums of a group and the sums of all
// groups both stay in registers, so C is 2 for many rows.
template <int R, int C>
[[gnu::always_inline]] inline void Int4Blocks(const GemmTile& t, int block, Prefetcher& prefetch) {
  constexpr int kGroupLines = kInt4Group / 8;
  const __m512i low = _mm512_set1_epi8(15);
  __m512 acc[R][C];
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
    for (int c = 0; c < C; ++c) {
      t.from_zero ? Zero(acc[r][c]) : Read(t.acc + r * kTileColumns + (block + c) * 16, acc[r][c]);
    }
  }
  const uint8_t* line = t.w + block * 64;
  const char* x = static_cast<const char*>(t.x);
  const InputGroup* x_group = t.x_groups;
  for (int64_t l = 0; l < t.lines; l += 2 + 2 * kGroupLines) {
    const uint8_t* scales = line;
    const uint8_t* offsets = line + t.w_stride;
    line += 2 * t.w_stride;
    prefetch.Lines(t);
    prefetch.Lines(t);
    for (int group = 0; group < 2; ++group, scales += 32, offsets += 32, ++x_group) {
      __m512i sum[R][C];
#pragma GCC unroll 8
      for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
        for (int c = 0; c < C; ++c) Zero(sum[r][c]);
      }
#pragma GCC unroll 4
      for (int i = 0; i < kGroupLines; ++i, x += 8, line += t.w_stride) {
        prefetch.Lines(t);
#pragma GCC unroll 4
        for (int c = 0; c < C; ++c) {
          const __m512i codes = _mm512_load_si512(line + c * 64);
          const __m512i first = _mm512_and_si512(codes, low);
          const __m512i second = _mm512_and_si512(_mm512_srli_epi16(codes, 4), low);
#pragma GCC unroll 8
          for (int r = 0; r < R; ++r) {
            const char* x_row = x + r * t.x_stride;
            sum[r][c] = _mm512_dpbusd_epi32(sum[r][c], first, BroadcastFour(x_row));
            sum[r][c] = _mm512_dpbusd_epi32(sum[r][c], second, BroadcastFour(x_row + 4));
          }
        }
      }
#pragma GCC unroll 4
      for (int c = 0; c < C; ++c) {
        const __m512 scale = SixteenBf16(scales + c * 64), offset = SixteenBf16(offsets + c * 64);
#pragma GCC unroll 8
        for (int r = 0; r < R; ++r) {
          const InputGroup& in = x_group[r * t.x_groups_stride];
          const __m512 both = _mm512_mul_ps(scale, _mm512_set1_ps(in.scale));
          acc[r][c] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum[r][c]), both, acc[r][c]);
          acc[r][c] = _mm512_fmadd_ps(offset, _mm512_set1_ps(in.sum), acc[r][c]);
        }
      }
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
    for (int c = 0; c < C; ++c) Write(t.acc + r * kTileColumns + (block + c) * 16, acc[r][c]);
  }
}

template <int R, int C>
void Int4Tile(const GemmTile& t) {
  constexpr int kTogether = R > 3 && C > 2 ? 2 : C;
  Prefetcher prefetch{t.prefetch};
  Int4Blocks<R, kTogether>(t, 0, prefetch);
  if constexpr (kTogether < C) Int4Blocks<R, C - kTogether>(t, kTogether, prefetch);
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

void Finish() {}

}  // namespace

void TileInt4Avx512(const GemmTile& t) { AnyTile<NibbleTile>(t); }

const GemmKernels kGemmAvx512 = {
    .formats = {FormatAvx512(AnyTile<LinesTile<Bf16Lines>>),
                FormatAvx512(AnyTile<LinesTile<Fp8Lines>>),
                FormatAvx512(AnyTile<LinesTile<Int8Lines>>), kInt4FormatAvx512},
    .scale = ScaleAvx512,
    .store_linear = StoreLinearAvx512,
    .store_swiglu = StoreSwiGluAvx512,
    .quantize_row = QuantizeRowAvx512,
    .quantize_groups = QuantizeGroupsAvx512,
    .finish = Finish};

}  // namespace skim
