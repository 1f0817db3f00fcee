// float8 e4m3 to bf16 in AVX-512 VBMI, exactly. For instruction-set units only.
#pragma once

#include <immintrin.h>

#include <cstdint>

namespace skim {
namespace {

// bf16 of the 128 codes without sign, high and low bytes apart, as VPERMI2B wants them. Code
// 0x7f (NaN) does not occur: it is refused when weights are packed.
struct Fp8Tables {
  alignas(64) uint8_t high[128];
  alignas(64) uint8_t low[128];
};

constexpr Fp8Tables MakeFp8Tables() {
  Fp8Tables tables = {};
  for (int code = 0; code < 128; ++code) {
    int exponent = code >> 3, mantissa = code & 7;
    if (exponent == 0) {  // subnormal: mantissa x 2^-9, made normal
      if (mantissa == 0) continue;
      exponent = 1;
      while (mantissa < 8) {
        mantissa <<= 1;
        --exponent;
      }
      mantissa &= 7;
    }
    const int bits = ((exponent + 120) << 7) | (mantissa << 4);
    tables.high[code] = static_cast<uint8_t>(bits >> 8);
    tables.low[code] = static_cast<uint8_t>(bits);
  }
  return tables;
}

constexpr Fp8Tables kFp8Tables = MakeFp8Tables();

struct Fp8ToBf16Avx512 {
  __m512i high[2] = {_mm512_load_si512(kFp8Tables.high), _mm512_load_si512(kFp8Tables.high + 64)};
  __m512i low[2] = {_mm512_load_si512(kFp8Tables.low), _mm512_load_si512(kFp8Tables.low + 64)};

  // In each 16 bytes the first eight codes become 16-bit lanes of `first`, the others of
  // `second`.
  [[gnu::always_inline]] void operator()(__m512i codes, __m512i& first, __m512i& second) const {
    const __m512i low_bytes = _mm512_permutex2var_epi8(low[0], codes, low[1]);
    const __m512i magnitude = _mm512_permutex2var_epi8(high[0], codes, high[1]);
    // magnitude | (codes & 0x80)
    const __m512i high_bytes =
        _mm512_ternarylogic_epi32(magnitude, codes, _mm512_set1_epi8(-128), 0xf8);
    first = _mm512_unpacklo_epi8(low_bytes, high_bytes);
    second = _mm512_unpackhi_epi8(low_bytes, high_bytes);
  }
};

}  // namespace
}  // namespace skim
