#include "tests/ptxsim/small_floats.h"

#include <bit>
#include <cmath>

namespace ptxsim {

float Bf16ToFloat(uint16_t bits) { return std::bit_cast<float>(uint32_t{bits} << 16); }

uint16_t FloatToBf16(float x, Rounding rounding) {
  const uint32_t bits = std::bit_cast<uint32_t>(x);
  if (std::isnan(x)) return 0x7fff;
  if (rounding == Rounding::kZero) return static_cast<uint16_t>(bits >> 16);
  return static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

uint16_t DoubleToBf16(double x) {
  auto nearest = static_cast<float>(x);
  if (!std::isfinite(nearest) || double{nearest} == x) {
    return FloatToBf16(nearest, Rounding::kNearest);
  }
  // To odd, so that the second rounding sees that the first one lost something.
  if (std::fabs(double{nearest}) > std::fabs(x)) nearest = std::nextafter(nearest, 0.0f);
  return FloatToBf16(std::bit_cast<float>(std::bit_cast<uint32_t>(nearest) | 1),
                     Rounding::kNearest);
}

float HalfToFloat(uint16_t bits) {
  const int exponent = bits >> 10 & 31, mantissa = bits & 1023;
  const float sign = bits >> 15 ? -1.0f : 1.0f;
  if (exponent == 31) return mantissa ? std::nanf("") : sign * INFINITY;
  if (exponent == 0) return sign * std::ldexp(static_cast<float>(mantissa), -24);
  return sign * std::ldexp(static_cast<float>(1024 + mantissa), exponent - 25);
}

uint16_t FloatToHalf(float x) {
  const uint16_t sign = std::signbit(x) ? 0x8000 : 0;
  if (std::isnan(x)) return 0x7fff;
  const float magnitude = std::fabs(x);
  if (magnitude >= 65520.0f) return sign | 0x7c00;
  int exponent = magnitude == 0 ? -14 : std::ilogb(magnitude);
  if (exponent < -14) exponent = -14;
  // In units of the last place; a carry into the next exponent comes out right.
  const auto units = static_cast<uint32_t>(std::nearbyint(std::ldexp(magnitude, 10 - exponent)));
  return static_cast<uint16_t>(sign + (static_cast<uint32_t>(exponent + 14) << 10) + units);
}

}  // namespace ptxsim
