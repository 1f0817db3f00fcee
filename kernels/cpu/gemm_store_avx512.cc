#include <immintrin.h>

#include "kernels/cpu/fp8_avx512.h"
#include "kernels/cpu/gemm_avx512.h"
#include "kernels/cpu/simd_exp.h"

namespace skim {
namespace {

[[gnu::always_inline]] inline __mmask16 TailMask(int64_t lanes) {
  return static_cast<__mmask16>(lanes >= 16 ? 0xffffu : (1u << lanes) - 1);
}

[[gnu::always_inline]] inline __m512 Floats(__m256i bf16) {
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bf16), 16));
}

[[gnu::always_inline]] inline __m512 LoadBf16(const uint16_t* x, int64_t left) {
  return Floats(_mm256_maskz_loadu_epi16(TailMask(left), x));
}

}  // namespace

void ScaleAvx512(const ScaleTile& s) {
  for (int r = 0; r < s.rows; ++r) {
    for (int c = 0; c < 16 * s.width; c += 16) {
      float* acc = s.acc + r * kTileColumns + c;
      __m512 v = _mm512_loadu_ps(acc);
      switch (s.format) {
        case WeightFormat::kBf16:
          break;
        case WeightFormat::kFp8:
          v = _mm512_mul_ps(v, _mm512_loadu_ps(s.column_scales + c));
          break;
        case WeightFormat::kInt8: {
          const __m512i offset = _mm512_set1_epi32(128 * s.row_sums[r * s.row_sums_stride]);
          v = _mm512_cvtepi32_ps(_mm512_sub_epi32(_mm512_castps_si512(v), offset));
          v = _mm512_mul_ps(v, _mm512_loadu_ps(s.column_scales + c));
          v = _mm512_mul_ps(v, _mm512_set1_ps(s.row_scales[r]));
          break;
        }
        case WeightFormat::kInt4:
          v = _mm512_mul_ps(v, _mm512_set1_ps(s.row_scales[r]));
          break;
      }
      _mm512_storeu_ps(acc, v);
    }
  }
}

float QuantizeAvx512(const QuantizeRow& q) {
  const __m512i no_sign = _mm512_set1_epi32(0x7fffffff);
  __m512i largest_bits = _mm512_setzero_si512();  // floats without sign compare as integers
  for (int64_t k = 0; k < q.columns; k += 16) {
    const __m512i bits = _mm512_castps_si512(LoadBf16(q.x + k, q.columns - k));
    largest_bits = _mm512_max_epi32(largest_bits, _mm512_and_si512(bits, no_sign));
  }
  const int32_t bits = _mm512_reduce_max_epi32(largest_bits);
  float largest;
  __builtin_memcpy(&largest, &bits, sizeof largest);
  const bool finite = bits < 0x7f800000;
  const bool zero = !finite || largest < kQuantizeFloor;
  const __m512 inverse = _mm512_set1_ps(zero ? 0 : 127.0f / largest);
  const __m512i ones = _mm512_set1_epi8(1);
  int32_t total = 0;
  for (int64_t k = 0; k < q.padded; k += 64) {
    __m512i codes = _mm512_setzero_si512();
    if (!zero) {
      __m128i part[4];
      for (int i = 0; i < 4; ++i) {
        const int64_t left = q.columns - k - 16 * i;
        const __m512 x = left > 0 ? LoadBf16(q.x + k + 16 * i, left) : _mm512_setzero_ps();
        part[i] = _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(_mm512_mul_ps(x, inverse)));
      }
      codes = _mm512_inserti64x4(_mm512_castsi256_si512(_mm256_set_m128i(part[1], part[0])),
                                 _mm256_set_m128i(part[3], part[2]), 1);
    }
    _mm512_store_si512(q.codes + k, codes);
    const __m512i sums = _mm512_dpbusd_epi32(_mm512_setzero_si512(), ones, codes);
    const int32_t first = _mm512_mask_reduce_add_epi32(0x00ff, sums);
    const int32_t second = _mm512_mask_reduce_add_epi32(0xff00, sums);
    q.sums[1 + k / kInt4Group] = first;
    q.sums[2 + k / kInt4Group] = second;
    total += first + second;
  }
  q.sums[0] = total;
  if (!finite) return __builtin_nanf("");
  return zero ? 0 : largest / 127.0f;
}

void ExpandFp8Avx512(const ExpandLines& e) {
  const Fp8ToBf16Avx512 convert;
  const int64_t row = 64 * e.width;
  for (int64_t l = 0; l < e.lines; ++l) {
    uint8_t* out = e.out + 2 * l * row;
    for (int c = 0; c < e.width; ++c) {
      __m512i first, second;
      convert(_mm512_load_si512(e.w + l * e.w_stride + c * 64), first, second);
      _mm512_store_si512(out + c * 64, first);
      _mm512_store_si512(out + row + c * 64, second);
    }
  }
}

void StoreLinearAvx512(const StoreLinear& s) {
  for (int r = 0; r < s.rows; ++r) {
    for (int64_t c = 0; c < s.columns; c += 16) {
      const __mmask16 mask = TailMask(s.columns - c);
      float* y = s.y + r * s.y_stride + c;
      __m512 v = _mm512_loadu_ps(s.acc + r * kTileColumns + c);
      if (s.bias != nullptr) v = _mm512_add_ps(v, _mm512_maskz_loadu_ps(mask, s.bias + c));
      if (s.accumulate) v = _mm512_add_ps(_mm512_maskz_loadu_ps(mask, y), v);
      _mm512_mask_storeu_ps(y, mask, v);
    }
  }
}

void StoreSwiGluAvx512(const StoreSwiGlu& s) {
  const __m512 one = _mm512_set1_ps(1.0f);
  for (int r = 0; r < s.rows; ++r) {
    for (int64_t c = 0; c < s.columns; c += 16) {
      const __mmask16 mask = TailMask(s.columns - c);
      const float* acc = s.acc + r * kTileColumns + 2 * c;
      __m512 gate = _mm512_loadu_ps(acc), up = _mm512_loadu_ps(acc + 16);
      if (s.gate_bias != nullptr) {
        gate = _mm512_add_ps(gate, _mm512_maskz_loadu_ps(mask, s.gate_bias + c));
        up = _mm512_add_ps(up, _mm512_maskz_loadu_ps(mask, s.up_bias + c));
      }
      const __m512 e = ExpAvx512(_mm512_sub_ps(_mm512_setzero_ps(), gate));
      const __m512 y = _mm512_mul_ps(_mm512_div_ps(gate, _mm512_add_ps(one, e)), up);
      _mm256_mask_storeu_epi16(s.y + r * s.y_stride + c, mask,
                               reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(y)));
    }
  }
}

}  // namespace skim
