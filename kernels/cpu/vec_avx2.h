// VecPlain's members in two AVX2 registers; bf16 pairs are widened to float.
#pragma once

#include <immintrin.h>

#include <cstddef>
#include <cstdint>

#include "base/bf16.h"
#include "kernels/cpu/vec_constants.h"
#include "kernels/kv_codes.h"

namespace skim {
namespace {

struct VecAvx2 {
  static constexpr int kLanes = 16;
  static constexpr int kTileRows = 2;
  static constexpr int kTileVecs = 2;

  struct F {
    __m256 low, high;
  };
  struct Pairs {
    __m256i low, high;
  };
  using Mask = F;

  static F Set(float x) { return {_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
  static F Load(const float* from) { return {_mm256_loadu_ps(from), _mm256_loadu_ps(from + 8)}; }
  static F LoadPartial(const float* from, int lanes) {
    return {_mm256_maskload_ps(from, FirstLanes(lanes)),
            _mm256_maskload_ps(from + 8, FirstLanes(lanes - 8))};
  }
  static void Store(float* to, F a) {
    _mm256_storeu_ps(to, a.low);
    _mm256_storeu_ps(to + 8, a.high);
  }
  static void StorePartial(float* to, F a, int lanes) {
    _mm256_maskstore_ps(to, FirstLanes(lanes), a.low);
    _mm256_maskstore_ps(to + 8, FirstLanes(lanes - 8), a.high);
  }

  static F Add(F a, F b) { return {_mm256_add_ps(a.low, b.low), _mm256_add_ps(a.high, b.high)}; }
  static F Sub(F a, F b) { return {_mm256_sub_ps(a.low, b.low), _mm256_sub_ps(a.high, b.high)}; }
  static F Mul(F a, F b) { return {_mm256_mul_ps(a.low, b.low), _mm256_mul_ps(a.high, b.high)}; }
  static F Div(F a, F b) { return {_mm256_div_ps(a.low, b.low), _mm256_div_ps(a.high, b.high)}; }
  static F Max(F a, F b) { return {_mm256_max_ps(a.low, b.low), _mm256_max_ps(a.high, b.high)}; }
  static F Exp(F a) { return {ExpAvx2(a.low), ExpAvx2(a.high)}; }
  static F Exp2(F a) { return {Exp2Of8(a.low), Exp2Of8(a.high)}; }

  static float ReduceAdd(F a) {
    const __m256 eight = _mm256_add_ps(a.low, a.high);
    __m128 x = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    x = _mm_add_ps(x, _mm_movehl_ps(x, x));
    return _mm_cvtss_f32(_mm_add_ss(x, _mm_movehdup_ps(x)));
  }
  static float ReduceMax(F a) {
    const __m256 eight = _mm256_max_ps(a.low, a.high);
    __m128 x = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    x = _mm_max_ps(x, _mm_movehl_ps(x, x));
    return _mm_cvtss_f32(_mm_max_ss(x, _mm_movehdup_ps(x)));
  }

  static Mask AtMost(const int32_t* values, int32_t limit) {
    return {AtMost8(values, limit), AtMost8(values + 8, limit)};
  }
  static Mask AtLeast(F a, F b) {
    return {_mm256_cmp_ps(a.low, b.low, _CMP_GE_OQ), _mm256_cmp_ps(a.high, b.high, _CMP_GE_OQ)};
  }
  static F Select(Mask mask, F yes, F no) {
    return {_mm256_blendv_ps(no.low, yes.low, mask.low),
            _mm256_blendv_ps(no.high, yes.high, mask.high)};
  }

  static F StoreBf16(Bf16* to, F a, int lanes = kLanes) {
    const __m256i low = RoundToBf16(a.low), high = RoundToBf16(a.high);
    // The pack works in 128-bit halves.
    const __m256i packed = _mm256_permute4x64_epi64(_mm256_packus_epi32(low, high), 0xd8);
    if (lanes == kLanes) {
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), packed);
    } else {
      alignas(32) Bf16 all[kLanes];
      _mm256_store_si256(reinterpret_cast<__m256i*>(all), packed);
      for (int i = 0; i < lanes; ++i) to[i] = all[i];
    }
    return {_mm256_castsi256_ps(_mm256_slli_epi32(low, 16)),
            _mm256_castsi256_ps(_mm256_slli_epi32(high, 16))};
  }

  static Pairs LoadPairs(const Bf16* from) {
    return {_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)),
            _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from + 16))};
  }
  static Pairs LoadPairsPartial(const Bf16* from, int lanes) {
    const int* words = reinterpret_cast<const int*>(from);
    return {_mm256_maskload_epi32(words, FirstLanes(lanes)),
            _mm256_maskload_epi32(words + 8, FirstLanes(lanes - 8))};
  }
  static void StorePairs(Bf16* to, Pairs a) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), a.low);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to + 16), a.high);
  }
  template <KvFormat kFormat>
  struct Codes {
    void Load(const std::byte* line, Pairs* first, Pairs* second) const {
      const auto* halves = reinterpret_cast<const __m256i*>(line);
      Expand<kFormat>(_mm256_loadu_si256(halves), &first->low, &second->low);
      Expand<kFormat>(_mm256_loadu_si256(halves + 1), &first->high, &second->high);
    }
  };
  static F Dot(F sum, const Bf16* pair, Pairs b) {
    const __m256i a =
        _mm256_castps_si256(_mm256_broadcast_ss(reinterpret_cast<const float*>(pair)));
    return {Dot8(sum.low, a, b.low), Dot8(sum.high, a, b.high)};
  }

 private:
  static __m256 Exp2Of8(__m256 x) {
    x = _mm256_max_ps(_mm256_set1_ps(kExp2Lowest), x);
    const __m256 n = _mm256_round_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    const __m256 f = _mm256_sub_ps(x, n);
    __m256 p = _mm256_set1_ps(kExp2Terms[5]);
    for (int i = 4; i >= 0; --i) p = _mm256_fmadd_ps(p, f, _mm256_set1_ps(kExp2Terms[i]));
    // Two factors, as 2^n itself may be out of range where the product is not.
    const __m256i whole = _mm256_cvtps_epi32(n), half = _mm256_srai_epi32(whole, 1);
    const __m256i bias = _mm256_set1_epi32(127);
    const __m256i low = _mm256_slli_epi32(_mm256_add_epi32(half, bias), 23);
    const __m256i rest = _mm256_sub_epi32(whole, half);
    const __m256i high = _mm256_slli_epi32(_mm256_add_epi32(rest, bias), 23);
    p = _mm256_mul_ps(p, _mm256_castsi256_ps(low));
    return _mm256_mul_ps(p, _mm256_castsi256_ps(high));
  }
  static __m256i FirstLanes(int lanes) {
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(lanes), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
  }
  static __m256 AtMost8(const int32_t* values, int32_t limit) {
    const __m256i v = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(values));
    const __m256i above = _mm256_cmpgt_epi32(v, _mm256_set1_epi32(limit));
    return _mm256_castsi256_ps(_mm256_xor_si256(above, _mm256_set1_epi32(-1)));
  }
  static __m256i RoundToBf16(__m256 a) {
    const __m256i bits = _mm256_castps_si256(a);
    const __m256i top = _mm256_srli_epi32(bits, 16);
    const __m256i odd = _mm256_and_si256(top, _mm256_set1_epi32(1));
    const __m256i bias = _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff));
    const __m256i rounded = _mm256_srli_epi32(_mm256_add_epi32(bits, bias), 16);
    const __m256i quiet_nan = _mm256_or_si256(top, _mm256_set1_epi32(0x40));
    const __m256i is_nan = _mm256_castps_si256(_mm256_cmp_ps(a, a, _CMP_UNORD_Q));
    return _mm256_blendv_epi8(rounded, quiet_nan, is_nan);
  }
  // 32 codes to bf16: the lower eight of each 128-bit half, and the upper eight.
  template <KvFormat kFormat>
  static void Expand(__m256i codes, __m256i* first, __m256i* second) {
    const __m256i signs = _mm256_and_si256(codes, _mm256_set1_epi8(-0x80));
    const __m256i magnitudes = _mm256_andnot_si256(signs, codes);
    if constexpr (kFormat == KvFormat::kInt8) {
      // 0x43 above seven bits m is the bf16 number 128 + m.
      const __m256i above = _mm256_set1_epi8(0x43), zero = _mm256_setzero_si256();
      *first = _mm256_or_si256(Minus128(_mm256_unpacklo_epi8(magnitudes, above)),
                               _mm256_unpacklo_epi8(zero, signs));
      *second = _mm256_or_si256(Minus128(_mm256_unpackhi_epi8(magnitudes, above)),
                                _mm256_unpackhi_epi8(zero, signs));
    } else {
      // A shift by four bits and another bias; the eight subnormals are looked up.
      const CodeTable& table = kCodeTable<kFormat>;
      const __m256i shifted_up = _mm256_slli_epi16(magnitudes, 4);
      const __m256i shifted_down = _mm256_srli_epi16(magnitudes, 4);
      __m256i low = _mm256_and_si256(shifted_up, _mm256_set1_epi8(-0x10));
      __m256i high = _mm256_add_epi8(_mm256_and_si256(shifted_down, _mm256_set1_epi8(0x07)),
                                     _mm256_set1_epi8(120 / 2));
      const __m256i subnormal = _mm256_cmpgt_epi8(_mm256_set1_epi8(8), magnitudes);
      low = _mm256_blendv_epi8(low, LookUp(table.low, magnitudes), subnormal);
      high = _mm256_blendv_epi8(high, LookUp(table.high, magnitudes), subnormal);
      high = _mm256_or_si256(high, signs);
      *first = _mm256_unpacklo_epi8(low, high);
      *second = _mm256_unpackhi_epi8(low, high);
    }
  }
  static __m256i LookUp(const uint8_t* sixteen, __m256i index) {
    const __m128i table = _mm_load_si128(reinterpret_cast<const __m128i*>(sixteen));
    return _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(table), index);
  }
  static __m256i Minus128(__m256i words) {
    const __m256i odd_words = _mm256_set1_epi32(static_cast<int>(0xffff0000u));
    const __m256 c = _mm256_set1_ps(128);
    const __m256 even = _mm256_sub_ps(_mm256_castsi256_ps(_mm256_slli_epi32(words, 16)), c);
    const __m256 odd = _mm256_sub_ps(_mm256_castsi256_ps(_mm256_and_si256(words, odd_words)), c);
    return _mm256_or_si256(_mm256_srli_epi32(_mm256_castps_si256(even), 16),
                           _mm256_castps_si256(odd));
  }
  static __m256 Dot8(__m256 sum, __m256i a, __m256i b) {
    const __m256i odd = _mm256_set1_epi32(static_cast<int>(0xffff0000u));
    sum = _mm256_fmadd_ps(_mm256_castsi256_ps(_mm256_slli_epi32(a, 16)),
                          _mm256_castsi256_ps(_mm256_slli_epi32(b, 16)), sum);
    return _mm256_fmadd_ps(_mm256_castsi256_ps(_mm256_and_si256(a, odd)),
                           _mm256_castsi256_ps(_mm256_and_si256(b, odd)), sum);
  }
};

}  // namespace
}  // namespace skim
