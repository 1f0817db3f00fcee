#include <immintrin.h>

#include "kernels/cpu/gemm_store.h"
#include "kernels/cpu/simd_exp.h"

namespace skim {
namespace {

[[gnu::always_inline]] inline __mmask16 TailMask(int64_t lanes) {
  return static_cast<__mmask16>(lanes >= 16 ? 0xffffu : (1u << lanes) - 1);
}

}  // namespace

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
