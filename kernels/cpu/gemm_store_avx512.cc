#include <immintrin.h>

#include "kernels/cpu/gemm_avx512.h"
#include "kernels/cpu/simd_exp.h"
#include "kernels/cpu/vec_avx512.h"

namespace skim {
namespace {

[[gnu::always_inline]] inline __mmask16 TailMask(int64_t lanes) {
  return static_cast<__mmask16>(lanes >= 16 ? 0xffffu : (1u << lanes) - 1);
}

}  // namespace

void ScaleAvx512(const ScaleTile& s) {
  for (int r = 0; r < s.rows; ++r) {
    for (int c = 0; c < 16 * s.width; c += 16) {
      float* acc = s.acc + r * kTileColumns + c;
      __m512 v = _mm512_loadu_ps(acc);
      switch (s.format) {
        case WeightFormat::kBf16:
        case WeightFormat::kInt4:
          break;
        case WeightFormat::kFp8:
          v = _mm512_mul_ps(v, _mm512_loadu_ps(s.column_scales + c));
          break;
        case WeightFormat::kInt8: {
          const __m512i offset = _mm512_set1_epi32(128 * s.row_sums[r]);
          v = _mm512_cvtepi32_ps(_mm512_sub_epi32(_mm512_castps_si512(v), offset));
          v = _mm512_mul_ps(v, _mm512_loadu_ps(s.column_scales + c));
          v = _mm512_mul_ps(v, _mm512_set1_ps(s.row_scales[r]));
          break;
        }
      }
      _mm512_storeu_ps(acc, v);
    }
  }
}

void ExpandFp8Avx512(const ExpandLines& e) {
  const VecAvx512::Codes<KvFormat::kFp8> codes;
  const int64_t row = 64 * e.width;
  for (int64_t l = 0; l < e.lines; ++l) {
    uint8_t* out = e.out + 2 * l * row;
    for (int c = 0; c < e.width; ++c) {
      __m512i first, second;
      codes.Load(reinterpret_cast<const std::byte*>(e.w + l * e.w_stride + c * 64), &first,
                 &second);
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
