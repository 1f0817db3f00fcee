#include "kernels/weight_codes.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <vector>

#include "base/fp8.h"
#include "kernels/hadamard.h"

namespace skim {
namespace {

// Not finite if a weight is not.
float LargestMagnitude(std::span<const Bf16> row) {
  float largest = 0;
  for (const Bf16 w : row) {
    const float magnitude = std::fabs(ToFloat(w));
    if (!std::isfinite(magnitude)) return magnitude;
    largest = std::max(largest, magnitude);
  }
  return largest;
}

float NonZero(float scale) { return scale == 0 ? 1.0f : scale; }

// The nearest e4m3 value of 0 <= x <= 448, without branches: ToFp8 and back.
float NearestFp8(float x) {
  const uint32_t bits = std::bit_cast<uint32_t>(x);
  const uint32_t rounded = (bits + 0x7ffffu + (bits >> 20 & 1u)) & ~0xfffffu;
  constexpr float kMagic = 24576;  // its ulp is 2^-9, the subnormal step
  const float subnormal = (x + kMagic) - kMagic;
  return x < 0x1p-6f ? subnormal : std::bit_cast<float>(rounded);
}

float Fp8Error(std::span<const Bf16> row, float scale) {
  const float inverse = 1 / scale;
  float error[8] = {};
  for (size_t k = 0; k < row.size(); ++k) {
    const float x = std::fabs(ToFloat(row[k])) * inverse;
    const float difference = x - NearestFp8(x);
    error[k % 8] += difference * difference;
  }
  float sum = 0;
  for (const float e : error) sum += e;
  return sum * scale * scale;
}

// Codes of a group, and their squared error.
float EncodeGroup(std::span<const Bf16> row, Int4Group group, uint8_t* codes) {
  const float scale = ToFloat(group.scale), offset = ToFloat(group.offset);
  const float inverse = scale == 0 ? 0 : 1 / scale;
  float error = 0;
  for (size_t i = 0; i < row.size(); ++i) {
    const float w = ToFloat(row[i]);
    const float code = std::clamp(std::nearbyint((w - offset) * inverse), 0.0f, 15.0f);
    codes[i] = static_cast<uint8_t>(code);
    const float difference = w - (code * scale + offset);
    error += difference * difference;
  }
  return error;
}

}  // namespace

float QuantizeFp8(std::span<const Bf16> row, uint8_t* codes) {
  const float least_scale = NonZero(LargestMagnitude(row) / kFp8Max);
  if (!std::isfinite(least_scale)) return least_scale;
  float scale = least_scale, least = Fp8Error(row, scale);
  for (int eighth = 1; eighth < 8; ++eighth) {
    const float candidate = least_scale * (1 + 0.125f * static_cast<float>(eighth));
    const float error = Fp8Error(row, candidate);
    if (error >= least) continue;
    least = error;
    scale = candidate;
  }
  for (size_t k = 0; k < row.size(); ++k) codes[k] = ToFp8(ToFloat(row[k]) / scale).bits;
  return scale;
}

float QuantizeInt8(std::span<const Bf16> row, int64_t padded, uint8_t* codes) {
  std::vector<float> rotated(padded);
  for (size_t k = 0; k < row.size(); ++k) rotated[k] = ToFloat(row[k]);
  float largest = 0;
  for (int64_t k = 0; k < padded; k += kRotation) {
    RotateBlock(&rotated[k]);
    for (int i = 0; i < kRotation; ++i) {
      const float magnitude = std::fabs(rotated[k + i]);
      if (!std::isfinite(magnitude)) return magnitude;
      largest = std::max(largest, magnitude);
    }
  }
  const float scale = NonZero(largest / 127);
  for (int64_t k = 0; k < padded; ++k) {
    const float code = std::clamp(std::nearbyint(rotated[k] / scale), -127.0f, 127.0f);
    codes[k] = static_cast<uint8_t>(static_cast<int8_t>(code));
  }
  return scale;
}

bool QuantizeInt4(std::span<const Bf16> row, uint8_t* codes, Int4Group* groups) {
  for (size_t begin = 0; begin < row.size(); begin += kInt4Group) {
    const auto part = row.subspan(begin, std::min<size_t>(kInt4Group, row.size() - begin));
    float low = ToFloat(part[0]), high = low;
    for (const Bf16 w : part) {
      const float value = ToFloat(w);
      if (!std::isfinite(value)) return false;
      low = std::min(low, value);
      high = std::max(high, value);
    }
    const float range = high / 15 - low / 15;
    float least = std::numeric_limits<float>::infinity();
    for (const float share : {1.0f, 0.94f, 0.88f}) {
      uint8_t trial[kInt4Group];
      const Int4Group group{ToBf16(range * share), ToBf16(low + 7.5f * range * (1 - share))};
      const float error = EncodeGroup(part, group, trial);
      if (error >= least) continue;
      least = error;
      groups[begin / kInt4Group] = group;
      std::copy_n(trial, part.size(), codes + begin);
    }
  }
  return true;
}

}  // namespace skim
