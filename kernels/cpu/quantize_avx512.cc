// Rows of x to int8 codes. Floats without their sign compare as integers, so maxima are taken
// of bits: infinities and NaN come out on top.
#include <immintrin.h>

#include "kernels/cpu/gemm_avx512.h"
#include "kernels/hadamard.h"

namespace skim {
namespace {

constexpr int kVectors = kRotation / 16;

struct Block {
  __m512 v[kVectors];
};

// Values [k, k + 64) of a row, zero from `columns` on.
[[gnu::always_inline]] inline Block LoadBlock(const uint16_t* x, int64_t columns, int64_t k) {
  Block block;
#pragma GCC unroll 4
  for (int i = 0; i < kVectors; ++i) {
    const int64_t left = columns - k - 16 * i;
    const auto mask = static_cast<__mmask16>(left >= 16 ? 0xffff
                                             : left > 0 ? (1u << left) - 1
                                                        : 0u);
    const __m256i bf16 = _mm256_maskz_loadu_epi16(mask, x + k + 16 * i);
    block.v[i] = _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bf16), 16));
  }
  return block;
}

// One round inside a vector: `other` holds the partners of x, `upper` marks the second ones.
[[gnu::always_inline]] inline __m512 SumAndDifference(__m512 x, __m512 other, __mmask16 upper) {
  return _mm512_mask_sub_ps(_mm512_add_ps(x, other), upper, other, x);
}

// As RotateBlock.
[[gnu::always_inline]] inline void Rotate(Block& b) {
#pragma GCC unroll 4
  for (__m512& v : b.v) {
    v = SumAndDifference(v, _mm512_permute_ps(v, 0b10110001), 0xaaaa);
    v = SumAndDifference(v, _mm512_permute_ps(v, 0b01001110), 0xcccc);
    v = SumAndDifference(v, _mm512_shuffle_f32x4(v, v, 0b10110001), 0xf0f0);
    v = SumAndDifference(v, _mm512_shuffle_f32x4(v, v, 0b01001110), 0xff00);
  }
  const __m512 s01 = _mm512_add_ps(b.v[0], b.v[1]), d01 = _mm512_sub_ps(b.v[0], b.v[1]);
  const __m512 s23 = _mm512_add_ps(b.v[2], b.v[3]), d23 = _mm512_sub_ps(b.v[2], b.v[3]);
  const __m512 scale = _mm512_set1_ps(kRotationScale);
  b.v[0] = _mm512_mul_ps(_mm512_add_ps(s01, s23), scale);
  b.v[1] = _mm512_mul_ps(_mm512_add_ps(d01, d23), scale);
  b.v[2] = _mm512_mul_ps(_mm512_sub_ps(s01, s23), scale);
  b.v[3] = _mm512_mul_ps(_mm512_sub_ps(d01, d23), scale);
}

[[gnu::always_inline]] inline __m512i Magnitude(__m512 v) {
  return _mm512_and_si512(_mm512_castps_si512(v), _mm512_set1_epi32(0x7fffffff));
}

struct Scale {
  float scale;
  float inverse;  // 0 where all codes are to be 0

  explicit Scale(int32_t largest_bits) {
    float largest;
    __builtin_memcpy(&largest, &largest_bits, sizeof largest);
    const bool finite = largest_bits < 0x7f800000;
    const bool zero = !finite || largest < kQuantizeFloor;
    scale = !finite ? __builtin_nanf("") : zero ? 0 : largest / 127.0f;
    inverse = zero ? 0 : 127.0f / largest;
  }
};

[[gnu::always_inline]] inline __m128i Codes(__m512 v, const Scale& scale) {
  if (scale.inverse == 0) return _mm_setzero_si128();  // 0 x infinity is no code
  return _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(_mm512_mul_ps(v, _mm512_set1_ps(scale.inverse))));
}

}  // namespace

void QuantizeRowAvx512(const QuantizeRow& q) {
  const auto load = [&](int64_t k) {
    Block block = LoadBlock(q.x, q.columns, k);
    if (q.rotate) Rotate(block);
    return block;
  };
  __m512i largest = _mm512_setzero_si512();
  for (int64_t k = 0; k < q.padded; k += kRotation) {
    for (const __m512 v : load(k).v) largest = _mm512_max_epi32(largest, Magnitude(v));
  }
  const Scale scale(_mm512_reduce_max_epi32(largest));
  const __m512i ones = _mm512_set1_epi8(1);
  __m512i sum = _mm512_setzero_si512();
  for (int64_t k = 0; k < q.padded; k += kRotation) {
    const Block block = load(k);
    for (int i = 0; i < kVectors; ++i) {
      _mm_store_si128(reinterpret_cast<__m128i*>(q.codes + k) + i, Codes(block.v[i], scale));
    }
    sum = _mm512_dpbusd_epi32(sum, ones, _mm512_load_si512(q.codes + k));
  }
  *q.scale = scale.scale;
  *q.sum = _mm512_reduce_add_epi32(sum);
}

void QuantizeGroupsAvx512(const QuantizeGroups& q) {
  const __m256i ones = _mm256_set1_epi8(1);
  for (int64_t k = 0; k < q.padded; k += kRotation) {
    const Block block = LoadBlock(q.x, q.columns, k);
    for (int g = 0; g < 2; ++g) {
      const __m512 a = block.v[2 * g], b = block.v[2 * g + 1];
      const Scale scale(_mm512_reduce_max_epi32(_mm512_max_epi32(Magnitude(a), Magnitude(b))));
      const __m256i codes = _mm256_set_m128i(Codes(b, scale), Codes(a, scale));
      const int64_t at = k + g * kInt4Group;
      _mm256_store_si256(reinterpret_cast<__m256i*>(q.codes + at), codes);
      const __m256i sums = _mm256_dpbusd_epi32(_mm256_setzero_si256(), ones, codes);
      const int32_t sum = _mm512_reduce_add_epi32(_mm512_zextsi256_si512(sums));
      q.groups[at / kInt4Group] = {scale.scale, scale.scale * static_cast<float>(sum)};
    }
  }
}

}  // namespace skim
