// float8 e4m3 ("fn": no infinities, one NaN code per sign, largest value 448) as storage.
// Arithmetic happens in float; this only converts.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>

namespace skim {

struct Fp8 {
  uint8_t bits = 0;
};

inline constexpr float kFp8Max = 448;

inline bool IsNan(Fp8 x) { return (x.bits & 0x7f) == 0x7f; }

// Exact. Subnormal codes count multiples of 2^-9.
inline float ToFloat(Fp8 x) {
  const uint32_t sign = uint32_t{x.bits & 0x80u} << 24;
  if (IsNan(x)) return std::bit_cast<float>(sign | 0x7fc00000u);
  const uint32_t magnitude = x.bits & 0x7fu;
  const float value = magnitude < 8 ? static_cast<float>(magnitude) * 0x1p-9f
                                    : std::bit_cast<float>((magnitude << 20) + (120u << 23));
  return std::bit_cast<float>(std::bit_cast<uint32_t>(value) | sign);
}

// Round to nearest even; beyond the range, infinity included, to +-448. NaN stays NaN.
inline Fp8 ToFp8(float x) {
  const uint32_t u = std::bit_cast<uint32_t>(x);
  const auto sign = static_cast<uint8_t>(u >> 24 & 0x80u);
  const float magnitude = std::fabs(x);
  if (std::isnan(x)) return {static_cast<uint8_t>(sign | 0x7fu)};
  if (magnitude >= kFp8Max) return {static_cast<uint8_t>(sign | 0x7eu)};
  if (magnitude < 0x1p-6f) {  // 8 is the code of 2^-6: rounding up runs into it
    return {static_cast<uint8_t>(sign | static_cast<uint8_t>(std::nearbyint(magnitude * 512)))};
  }
  const uint32_t m = u & 0x7fffffffu;
  const uint32_t rounded = m + 0x7ffffu + (m >> 20 & 1u);
  return {static_cast<uint8_t>(sign | ((rounded - (120u << 23)) >> 20))};
}

}  // namespace skim
