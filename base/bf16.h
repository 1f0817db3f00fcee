// bfloat16 storage. Arithmetic happens in float; this only converts.
#pragma once

#include <bit>
#include <cstdint>

namespace skim {

struct Bf16 {
  uint16_t bits = 0;
};

inline float ToFloat(Bf16 x) { return std::bit_cast<float>(uint32_t{x.bits} << 16); }

// Round to nearest even. NaN stays NaN (quieted), overflow goes to infinity.
inline Bf16 ToBf16(float x) {
  const uint32_t u = std::bit_cast<uint32_t>(x);
  if ((u & 0x7fffffffu) > 0x7f800000u) return {static_cast<uint16_t>((u >> 16) | 0x40u)};
  return {static_cast<uint16_t>((u + 0x7fffu + ((u >> 16) & 1u)) >> 16)};
}

}  // namespace skim
