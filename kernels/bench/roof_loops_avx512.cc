#include <immintrin.h>

#include "kernels/bench/roof_loops.h"

namespace skim {
namespace {

constexpr int kSums = 24;

int64_t Bf16(int64_t iterations) {
  __m512 sums[kSums];
  __m512i x = _mm512_setzero_si512(), y = x;
  __asm__ volatile("" : "+v"(x), "+v"(y));
#pragma GCC unroll 24
  for (int j = 0; j < kSums; ++j) {
    sums[j] = _mm512_castsi512_ps(x);
    __asm__ volatile("" : "+v"(sums[j]));  // or equal sums would be merged
  }
  for (int64_t i = 0; i < iterations; ++i) {
#pragma GCC unroll 24
    for (int j = 0; j < kSums; ++j) {
      sums[j] =
          _mm512_dpbf16_ps(sums[j], reinterpret_cast<__m512bh>(x), reinterpret_cast<__m512bh>(y));
    }
  }
  __m512 sum = _mm512_castsi512_ps(x);
#pragma GCC unroll 24
  for (int j = 0; j < kSums; ++j) sum = _mm512_add_ps(sum, sums[j]);
  return _mm_cvtss_si32(_mm512_castps512_ps128(sum));
}

int64_t Int8(int64_t iterations) {
  __m512i sums[kSums], x = _mm512_setzero_si512(), y = x;
  __asm__ volatile("" : "+v"(x), "+v"(y));
#pragma GCC unroll 24
  for (int j = 0; j < kSums; ++j) {
    sums[j] = x;
    __asm__ volatile("" : "+v"(sums[j]));  // or equal sums would be merged
  }
  for (int64_t i = 0; i < iterations; ++i) {
#pragma GCC unroll 24
    for (int j = 0; j < kSums; ++j) sums[j] = _mm512_dpbusd_epi32(sums[j], x, y);
  }
  __m512i sum = x;
#pragma GCC unroll 24
  for (int j = 0; j < kSums; ++j) sum = _mm512_add_epi32(sum, sums[j]);
  return _mm_cvtsi128_si32(_mm512_castsi512_si128(sum));
}

}  // namespace

const RoofLoop kBf16Avx512 = {2.0 * 32 * kSums, Bf16};
const RoofLoop kInt8Vnni = {2.0 * 64 * kSums, Int8};

}  // namespace skim
