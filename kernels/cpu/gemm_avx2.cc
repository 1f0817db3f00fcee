// AVX2 + FMA: bf16 is widened to float (a shift or a mask), then even k before odd k.
#include <immintrin.h>

#include "kernels/cpu/gemm_kernels.h"
#include "kernels/cpu/simd_exp.h"

namespace skim {
namespace {

constexpr int kMaxRows = 4;

// How 64 bytes of packed weights become the factors of 16 columns x 2 k. Other formats
// differ here only.
struct Bf16Lines {
  __m256 even[2], odd[2];  // columns 0-7 and 8-15

  [[gnu::always_inline]] explicit Bf16Lines(const uint16_t* line) {
    const __m256i high = _mm256_set1_epi32(static_cast<int>(0xffff0000u));
#pragma GCC unroll 2
    for (int h = 0; h < 2; ++h) {
      const __m256i v = _mm256_load_si256(reinterpret_cast<const __m256i*>(line) + h);
      even[h] = _mm256_castsi256_ps(_mm256_slli_epi32(v, 16));
      odd[h] = _mm256_castsi256_ps(_mm256_and_si256(v, high));
    }
  }
};

[[gnu::always_inline]] inline __m256 Broadcast(const uint16_t* bf16) {
  const uint32_t bits = uint32_t{*bf16} << 16;
  float f;
  __builtin_memcpy(&f, &bits, sizeof f);
  return _mm256_set1_ps(f);
}

[[gnu::always_inline]] inline void Prefetch(const GemmTile& t, const char*& next) {
  for (int i = 0; i < t.prefetch_lines && next < t.prefetch_end; ++i, next += 64) {
    _mm_prefetch(next, _MM_HINT_T1);
  }
}

template <int R, int C, class Lines>
void Block(const GemmTile& t, int block, const char*& prefetch) {
  __m256 acc[R][C][2];
#pragma GCC unroll 4
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
    for (int c = 0; c < C; ++c) {
      const float* from = t.acc + r * kTileColumns + (block + c) * 16;
      acc[r][c][0] = t.from_zero ? _mm256_setzero_ps() : _mm256_loadu_ps(from);
      acc[r][c][1] = t.from_zero ? _mm256_setzero_ps() : _mm256_loadu_ps(from + 8);
    }
  }
  const uint16_t* line = t.w + block * 32;
  const uint16_t* x = t.x;
  for (int64_t p = 0; p < t.pairs; ++p, x += 2, line += t.w_stride) {
    Prefetch(t, prefetch);
#pragma GCC unroll 4
    for (int c = 0; c < C; ++c) {
      const Lines w(line + c * 32);
#pragma GCC unroll 4
      for (int r = 0; r < R; ++r) {
        const __m256 x0 = Broadcast(x + r * t.x_stride);
        const __m256 x1 = Broadcast(x + r * t.x_stride + 1);
#pragma GCC unroll 2
        for (int h = 0; h < 2; ++h) {
          acc[r][c][h] = _mm256_fmadd_ps(x0, w.even[h], acc[r][c][h]);
          acc[r][c][h] = _mm256_fmadd_ps(x1, w.odd[h], acc[r][c][h]);
        }
      }
    }
  }
#pragma GCC unroll 4
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
    for (int c = 0; c < C; ++c) {
      float* to = t.acc + r * kTileColumns + (block + c) * 16;
      _mm256_storeu_ps(to, acc[r][c][0]);
      _mm256_storeu_ps(to + 8, acc[r][c][1]);
    }
  }
}

// At least eight accumulators hide the latency of FMA; sixteen registers allow no more.
template <int R, int C>
void Blocks(const GemmTile& t) {
  const char* prefetch = t.prefetch;
  int block = 0;
  for (; block + C <= t.width; block += C) Block<R, C, Bf16Lines>(t, block, prefetch);
  for (; block < t.width; ++block) Block<R, 1, Bf16Lines>(t, block, prefetch);
}

void Tile(const GemmTile& t) {
  switch (t.rows) {
    case 1:
      return Blocks<1, 4>(t);
    case 2:
      return Blocks<2, 2>(t);
    case 3:
      return Blocks<3, 1>(t);
    default:
      return Blocks<kMaxRows, 1>(t);
  }
}

// Lanes of the last, partial vector; all ones for a full one.
[[gnu::always_inline]] inline __m256i TailMask(int64_t lanes) {
  const __m256i index = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(lanes < 8 ? lanes : 8)), index);
}

void Linear(const StoreLinear& s) {
  for (int r = 0; r < s.rows; ++r) {
    for (int64_t c = 0; c < s.columns; c += 8) {
      const __m256i mask = TailMask(s.columns - c);
      float* y = s.y + r * s.y_stride + c;
      __m256 v = _mm256_loadu_ps(s.acc + r * kTileColumns + c);
      if (s.bias != nullptr) v = _mm256_add_ps(v, _mm256_maskload_ps(s.bias + c, mask));
      if (s.accumulate) v = _mm256_add_ps(_mm256_maskload_ps(y, mask), v);
      _mm256_maskstore_ps(y, mask, v);
    }
  }
}

// To bf16 in the low halves of the lanes: nearest even, NaN quieted, as ToBf16.
[[gnu::always_inline]] inline __m256i RoundToBf16(__m256 x) {
  const __m256i u = _mm256_castps_si256(x);
  const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(u, 16), _mm256_set1_epi32(1));
  const __m256i rounded = _mm256_add_epi32(u, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
  const __m256i quiet = _mm256_or_si256(u, _mm256_set1_epi32(0x400000));
  const __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(x, x, _CMP_UNORD_Q));
  return _mm256_srli_epi32(_mm256_blendv_epi8(rounded, quiet, nan), 16);
}

void SwiGlu(const StoreSwiGlu& s) {
  const __m256 one = _mm256_set1_ps(1.0f);
  for (int r = 0; r < s.rows; ++r) {
    for (int64_t c = 0; c < s.columns; c += 8) {
      const int64_t lanes = s.columns - c < 8 ? s.columns - c : 8;
      const float* acc = s.acc + r * kTileColumns + c / 16 * 32 + c % 16;
      __m256 gate = _mm256_loadu_ps(acc), up = _mm256_loadu_ps(acc + 16);
      if (s.gate_bias != nullptr) {
        const __m256i mask = TailMask(lanes);
        gate = _mm256_add_ps(gate, _mm256_maskload_ps(s.gate_bias + c, mask));
        up = _mm256_add_ps(up, _mm256_maskload_ps(s.up_bias + c, mask));
      }
      const __m256 e = ExpAvx2(_mm256_sub_ps(_mm256_setzero_ps(), gate));
      const __m256 y = _mm256_mul_ps(_mm256_div_ps(gate, _mm256_add_ps(one, e)), up);
      alignas(32) uint32_t bits[8];
      _mm256_store_si256(reinterpret_cast<__m256i*>(bits), RoundToBf16(y));
      for (int64_t i = 0; i < lanes; ++i) {
        s.y[r * s.y_stride + c + i] = static_cast<uint16_t>(bits[i]);
      }
    }
  }
}

void Finish() {}

}  // namespace

const GemmKernels kGemmAvx2 = {.max_rows = kMaxRows,
                               .even_tiles = true,
                               .prefetch_from_rows = kMaxRows + 1,
                               .tile = Tile,
                               .store_linear = Linear,
                               .store_swiglu = SwiGlu,
                               .finish = Finish};

}  // namespace skim
