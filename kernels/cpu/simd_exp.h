// e^x for the CPU kernels: one formula, written once per register width. A lane's result
// depends on its input only; tails run the same code under a mask. Relative error below
// 3e-7 (normal results); 0 below -104, infinity above 88.8, NaN stays NaN.
//
//   n = round(x / ln 2),  r = x - n ln 2 in [-0.347, 0.347],  e^x = 2^n * sum_{i<=7} r^i / i!
//
// The first neglected term, r^8 / 8!, is below 6e-9. For instruction-set units: everything
// here has internal linkage.
#pragma once

#if defined(__AVX2__)
#include <immintrin.h>
#endif

#include <cstdint>

namespace skim {
namespace {

struct ExpConstants {
  static constexpr float kLowest = -105.0f;  // e^-105 rounds to 0
  static constexpr float kHighest = 89.0f;   // e^89 rounds to infinity
  static constexpr float kLog2E = 1.44269504f;
  static constexpr float kLn2High = 0x1.62e4p-1f;    // 16 significant bits: n * high is exact
  static constexpr float kLn2Low = 0x1.7f7d1cp-20f;  // ln 2 - high
  static constexpr float kInverseFactorial[8] = {1.0f,      1.0f,       1.0f / 2,   1.0f / 6,
                                                 1.0f / 24, 1.0f / 120, 1.0f / 720, 1.0f / 5040};
};

[[maybe_unused]] inline float PowerOfTwo(int32_t n) {  // -126 <= n <= 127
  const int32_t bits = (n + 127) << 23;
  float f;
  __builtin_memcpy(&f, &bits, sizeof f);
  return f;
}

[[maybe_unused]] inline float ExpPlain(float x) {
  using C = ExpConstants;
  x = x < C::kLowest ? C::kLowest : x;
  x = x > C::kHighest ? C::kHighest : x;
  if (x != x) return x;
  constexpr float kRound = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer
  const float n = (x * C::kLog2E + kRound) - kRound;
  const float r = (x - n * C::kLn2High) - n * C::kLn2Low;
  float p = C::kInverseFactorial[7];
  for (int i = 6; i >= 0; --i) p = p * r + C::kInverseFactorial[i];
  // Two factors, as 2^n itself may be out of range where the product is not.
  const int32_t whole = static_cast<int32_t>(n);
  const int32_t half = whole / 2;
  return p * PowerOfTwo(half) * PowerOfTwo(whole - half);
}

#if defined(__AVX2__) && defined(__FMA__)
[[maybe_unused, gnu::always_inline]] inline __m256 ExpAvx2(__m256 x) {
  using C = ExpConstants;
  // min and max return their second operand when either is NaN.
  x = _mm256_max_ps(_mm256_set1_ps(C::kLowest), x);
  x = _mm256_min_ps(_mm256_set1_ps(C::kHighest), x);
  const __m256 n = _mm256_round_ps(_mm256_mul_ps(x, _mm256_set1_ps(C::kLog2E)),
                                   _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  __m256 r = _mm256_fnmadd_ps(n, _mm256_set1_ps(C::kLn2High), x);
  r = _mm256_fnmadd_ps(n, _mm256_set1_ps(C::kLn2Low), r);
  __m256 p = _mm256_set1_ps(C::kInverseFactorial[7]);
  for (int i = 6; i >= 0; --i) {
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(C::kInverseFactorial[i]));
  }
  // Two factors, as 2^n itself may be out of range where the product is not.
  const __m256i whole = _mm256_cvtps_epi32(n);
  const __m256i half = _mm256_srai_epi32(whole, 1);
  const __m256i bias = _mm256_set1_epi32(127);
  const __m256i low = _mm256_slli_epi32(_mm256_add_epi32(half, bias), 23);
  const __m256i high = _mm256_slli_epi32(_mm256_add_epi32(_mm256_sub_epi32(whole, half), bias), 23);
  p = _mm256_mul_ps(p, _mm256_castsi256_ps(low));
  return _mm256_mul_ps(p, _mm256_castsi256_ps(high));
}
#endif

#if defined(__AVX512F__)
[[maybe_unused, gnu::always_inline]] inline __m512 ExpAvx512(__m512 x) {
  using C = ExpConstants;
  x = _mm512_max_ps(_mm512_set1_ps(C::kLowest), x);
  x = _mm512_min_ps(_mm512_set1_ps(C::kHighest), x);
  const __m512 n = _mm512_roundscale_ps(_mm512_mul_ps(x, _mm512_set1_ps(C::kLog2E)),
                                        _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  __m512 r = _mm512_fnmadd_ps(n, _mm512_set1_ps(C::kLn2High), x);
  r = _mm512_fnmadd_ps(n, _mm512_set1_ps(C::kLn2Low), r);
  __m512 p = _mm512_set1_ps(C::kInverseFactorial[7]);
  for (int i = 6; i >= 0; --i) {
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(C::kInverseFactorial[i]));
  }
  return _mm512_scalef_ps(p, n);
}
#endif

}  // namespace
}  // namespace skim
