#include <immintrin.h>

#include "kernels/bench/roof_loops.h"

namespace skim {
namespace {

constexpr int kSums = 12;

int64_t Bf16(int64_t iterations) {
  __m256 sums[kSums], x = _mm256_setzero_ps(), y = x;
  __asm__ volatile("" : "+x"(x), "+x"(y));
#pragma GCC unroll 12
  for (int j = 0; j < kSums; ++j) {
    sums[j] = x;
    __asm__ volatile("" : "+x"(sums[j]));  // or equal sums would be merged
  }
  for (int64_t i = 0; i < iterations; ++i) {
#pragma GCC unroll 12
    for (int j = 0; j < kSums; ++j) sums[j] = _mm256_fmadd_ps(x, y, sums[j]);
  }
  __m256 sum = x;
#pragma GCC unroll 12
  for (int j = 0; j < kSums; ++j) sum = _mm256_add_ps(sum, sums[j]);
  return _mm_cvtss_si32(_mm256_castps256_ps128(sum));
}

// u8 x s8 pairs to 16 bits, pairs of those to 32, then the sum: three instructions.
int64_t Int8(int64_t iterations) {
  __m256i sums[kSums], x = _mm256_setzero_si256(), ones = _mm256_set1_epi16(1);
#pragma GCC unroll 12
  for (int j = 0; j < kSums; ++j) {
    sums[j] = x;
    __asm__ volatile("" : "+x"(sums[j]));  // or equal sums would be merged
  }
  for (int64_t i = 0; i < iterations; ++i) {
    __asm__ volatile("" : "+x"(x));
#pragma GCC unroll 12
    for (int j = 0; j < kSums; ++j) {
      const __m256i pairs = _mm256_maddubs_epi16(x, sums[j]);
      sums[j] = _mm256_add_epi32(sums[j], _mm256_madd_epi16(pairs, ones));
    }
  }
  __m256i sum = x;
#pragma GCC unroll 12
  for (int j = 0; j < kSums; ++j) sum = _mm256_add_epi32(sum, sums[j]);
  return _mm256_cvtsi256_si32(sum);
}

}  // namespace

const RoofLoop kBf16Avx2 = {2.0 * 8 * kSums, Bf16};
const RoofLoop kInt8Avx2 = {2.0 * 32 * kSums, Int8};

}  // namespace skim
