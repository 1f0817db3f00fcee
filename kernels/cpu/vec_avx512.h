// VecPlain's members in one AVX-512 register; Dot is VDPBF16PS, which counts denormals as
// zero and rounds in its own way.
#pragma once

#include <immintrin.h>

#include <cstddef>
#include <cstdint>

#include "base/bf16.h"
#include "kernels/cpu/vec_constants.h"
#include "kernels/kv_codes.h"

namespace skim {
namespace {

struct VecAvx512 {
  static constexpr int kLanes = 16;
  static constexpr int kTileRows = 6;
  static constexpr int kTileVecs = 4;

  using F = __m512;
  using Pairs = __m512i;
  using Mask = __mmask16;

  static F Set(float x) { return _mm512_set1_ps(x); }
  static F Load(const float* from) { return _mm512_loadu_ps(from); }
  static F LoadPartial(const float* from, int lanes) {
    return _mm512_maskz_loadu_ps(FirstLanes(lanes), from);
  }
  static void Store(float* to, F a) { _mm512_storeu_ps(to, a); }
  static void StorePartial(float* to, F a, int lanes) {
    _mm512_mask_storeu_ps(to, FirstLanes(lanes), a);
  }

  static F Add(F a, F b) { return _mm512_add_ps(a, b); }
  static F Sub(F a, F b) { return _mm512_sub_ps(a, b); }
  static F Mul(F a, F b) { return _mm512_mul_ps(a, b); }
  static F Div(F a, F b) { return _mm512_div_ps(a, b); }
  static F Max(F a, F b) { return _mm512_max_ps(a, b); }
  static F Exp(F a) { return ExpAvx512(a); }
  static F Exp2(F a) {
    a = _mm512_max_ps(_mm512_set1_ps(kExp2Lowest), a);
    const F n = _mm512_roundscale_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    const F f = _mm512_sub_ps(a, n);
    F p = _mm512_set1_ps(kExp2Terms[5]);
    for (int i = 4; i >= 0; --i) p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(kExp2Terms[i]));
    return _mm512_scalef_ps(p, n);
  }
  static float ReduceAdd(F a) { return _mm512_reduce_add_ps(a); }
  static float ReduceMax(F a) { return _mm512_reduce_max_ps(a); }

  static Mask AtMost(const int32_t* values, int32_t limit) {
    return _mm512_cmple_epi32_mask(_mm512_loadu_si512(values), _mm512_set1_epi32(limit));
  }
  static Mask AtLeast(F a, F b) { return _mm512_cmp_ps_mask(a, b, _CMP_GE_OQ); }
  static F Select(Mask mask, F yes, F no) { return _mm512_mask_blend_ps(mask, no, yes); }

  static F StoreBf16(Bf16* to, F a, int lanes = kLanes) {
    const __m256i rounded = (__m256i)_mm512_cvtneps_pbh(a);
    if (lanes == kLanes) {
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), rounded);
    } else {
      _mm256_mask_storeu_epi16(to, FirstLanes(lanes), rounded);
    }
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(rounded), 16));
  }

  static Pairs LoadPairs(const Bf16* from) { return _mm512_loadu_si512(from); }
  static Pairs LoadPairsPartial(const Bf16* from, int lanes) {
    return _mm512_maskz_loadu_epi32(FirstLanes(lanes), from);
  }
  static void StorePairs(Bf16* to, Pairs a) { _mm512_storeu_si512(to, a); }
  // VPERMI2B looks the low seven bits of each code up in 128 bytes: once for either half of
  // the bf16 number.
  template <KvFormat kFormat>
  struct Codes {
    void Load(const std::byte* line, Pairs* first, Pairs* second) const {
      const __m512i codes = _mm512_loadu_si512(line);
      const __m512i low = _mm512_permutex2var_epi8(low_0, codes, low_64);
      __m512i high = _mm512_permutex2var_epi8(high_0, codes, high_64);
      constexpr int kOrWithAnd = 0xf8;  // a | (b & c)
      high = _mm512_ternarylogic_epi32(high, codes, _mm512_set1_epi8(-0x80), kOrWithAnd);
      *first = _mm512_unpacklo_epi8(low, high);
      *second = _mm512_unpackhi_epi8(low, high);
    }
    __m512i low_0 = _mm512_load_si512(kCodeTable<kFormat>.low);
    __m512i low_64 = _mm512_load_si512(kCodeTable<kFormat>.low + 64);
    __m512i high_0 = _mm512_load_si512(kCodeTable<kFormat>.high);
    __m512i high_64 = _mm512_load_si512(kCodeTable<kFormat>.high + 64);
  };
  static F Dot(F sum, const Bf16* pair, Pairs b) {
    int both;
    __builtin_memcpy(&both, pair, sizeof both);
    return _mm512_dpbf16_ps(sum, (__m512bh)_mm512_set1_epi32(both), (__m512bh)b);
  }

 private:
  static Mask FirstLanes(int lanes) {
    return static_cast<Mask>(lanes >= kLanes ? 0xffff : (1u << (lanes < 0 ? 0 : lanes)) - 1);
  }
};

}  // namespace
}  // namespace skim
