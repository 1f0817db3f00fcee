// The numbers behind the codes of kv_layout.h, and how a vector becomes codes. The vector
// types expand whole lines (vec_*.h, Codes); this is what they must agree with.
// Everything has internal linkage: see kernels/CMakeLists.txt.
#pragma once

#include <cstdint>

#include "kernels/kv_layout.h"

namespace skim {
namespace {

constexpr int kMagnitudes = 128;

// 2^n for -126 <= n <= 127.
constexpr float Exponent(int n) { return __builtin_bit_cast(float, (n + 127) << 23); }

// Exact in bf16, and never a denormal, which VDPBF16PS would take for zero.
constexpr float MagnitudeOf(KvFormat format, int code) {
  if (format == KvFormat::kInt8) return static_cast<float>(code);
  const int exponent = code / 8, fraction = code % 8;
  return exponent == 0 ? static_cast<float>(fraction) * Exponent(-9)
                       : static_cast<float>(8 + fraction) * Exponent(exponent - 10);
}

// The bf16 numbers of all magnitudes, whole and byte by byte.
struct CodeTable {
  uint16_t bits[kMagnitudes];
  alignas(64) uint8_t low[kMagnitudes];
  alignas(64) uint8_t high[kMagnitudes];

  constexpr explicit CodeTable(KvFormat format) : bits(), low(), high() {
    for (int code = 0; code < kMagnitudes; ++code) {
      bits[code] = __builtin_bit_cast(uint32_t, MagnitudeOf(format, code)) >> 16;
      low[code] = bits[code] & 0xff;
      high[code] = bits[code] >> 8;
    }
  }
};
template <KvFormat kFormat>
constexpr CodeTable kCodeTable{kFormat};

constexpr int kHighestInt8 = 127, kHighestFp8 = 126;  // 127, 448

// The code nearest to x >= 0 on the scale of codes, ties to even; saturates. The loops that
// call these are left to the compiler to vectorise, so there are no branches.
[[maybe_unused]] constexpr uint32_t NearestInt8(float x) {
  // Adding 2^23 leaves the integer in the low bits.
  const uint32_t code = __builtin_bit_cast(uint32_t, x + 0x1p23f) & 0xff;
  return code < kHighestInt8 ? code : kHighestInt8;
}
[[maybe_unused]] constexpr uint32_t NearestFp8(float x) {
  const uint32_t bits = __builtin_bit_cast(uint32_t, x);
  // Three bits of fraction remain, and the exponent's bias goes from 127 to 7.
  const uint32_t normal = ((bits + 0x7ffff + ((bits >> 20) & 1)) >> 20) - (120 << 3);
  // Adding 2^14 leaves x / 2^-9 in the low bits; 8 is the first normal code.
  const uint32_t subnormal = __builtin_bit_cast(uint32_t, x + 0x1p14f) & 0xf;
  const uint32_t code = x < 0x1p-6f ? subnormal : normal;
  return code < kHighestFp8 ? code : kHighestFp8;
}

// Codes of x[0 .. n); returns their scale. |x - code * scale| is at most, but for one part in
// 10^4,
//   int8  scale / 2
//   fp8   |x| / 16, or scale / 1024 where that is more
template <KvFormat kFormat>
float Quantize(const float* x, int n, uint8_t* codes) {
  constexpr uint32_t kSign = 0x80000000u, kInfinity = 0x7f800000u;
  uint32_t max_bits = 0;  // ordered like the magnitudes, NaN above all
  for (int i = 0; i < n; ++i) {
    const uint32_t bits = __builtin_bit_cast(uint32_t, x[i]) & ~kSign;
    max_bits = max_bits < bits ? bits : max_bits;
  }
  const float max = __builtin_bit_cast(float, max_bits);
  if (max_bits >= kInfinity || max < kSmallestKvMaximum) {
    for (int i = 0; i < n; ++i) codes[i] = 0;
    return max_bits >= kInfinity ? __builtin_nanf("") : 0.0f;
  }
  constexpr float kHighest =
      MagnitudeOf(kFormat, kFormat == KvFormat::kInt8 ? kHighestInt8 : kHighestFp8);
  const float to_codes = kHighest / max;
  for (int i = 0; i < n; ++i) {
    const uint32_t bits = __builtin_bit_cast(uint32_t, x[i]);
    const float magnitude = __builtin_bit_cast(float, bits & ~kSign) * to_codes;
    const uint32_t code =
        kFormat == KvFormat::kInt8 ? NearestInt8(magnitude) : NearestFp8(magnitude);
    codes[i] = static_cast<uint8_t>(code | (bits & kSign) >> 24);
  }
  return max / kHighest;
}

}  // namespace
}  // namespace skim
