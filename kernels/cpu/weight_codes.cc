#include "kernels/cpu/weight_codes.h"

#include <algorithm>
#include <cmath>

#include "base/fp8.h"

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

// Squared error of a group quantised with `scale`.
float GroupError(std::span<const Bf16> group, float scale, uint8_t* codes) {
  const float inverse = 1 / scale;
  float error = 0;
  for (size_t i = 0; i < group.size(); ++i) {
    const float w = ToFloat(group[i]);
    const float code = std::clamp(std::nearbyint(w * inverse), -8.0f, 7.0f);
    codes[i] = static_cast<uint8_t>(static_cast<int>(code) + 8);
    error += (w - code * scale) * (w - code * scale);
  }
  return error;
}

}  // namespace

float QuantizeFp8(std::span<const Bf16> row, uint8_t* codes) {
  const float scale = NonZero(LargestMagnitude(row) / kFp8Max);
  if (!std::isfinite(scale)) return scale;
  for (size_t k = 0; k < row.size(); ++k) codes[k] = ToFp8(ToFloat(row[k]) / scale).bits;
  return scale;
}

float QuantizeInt8(std::span<const Bf16> row, uint8_t* codes) {
  const float scale = NonZero(LargestMagnitude(row) / 127);
  if (!std::isfinite(scale)) return scale;
  for (size_t k = 0; k < row.size(); ++k) {
    const float code = std::clamp(std::nearbyint(ToFloat(row[k]) / scale), -127.0f, 127.0f);
    codes[k] = static_cast<uint8_t>(static_cast<int8_t>(code));
  }
  return scale;
}

bool QuantizeInt4(std::span<const Bf16> row, uint8_t* codes, Bf16* scales) {
  for (size_t begin = 0; begin < row.size(); begin += kInt4Group) {
    const auto group = row.subspan(begin, std::min<size_t>(kInt4Group, row.size() - begin));
    uint8_t* const out = codes + begin;
    Bf16& scale = scales[begin / kInt4Group];
    float extreme = 0;
    for (const Bf16 w : group) {
      const float value = ToFloat(w);
      if (!std::isfinite(value)) return false;
      if (std::fabs(value) > std::fabs(extreme)) extreme = value;
    }
    scale = ToBf16(extreme / -8);
    if (ToFloat(scale) == 0) {
      std::fill_n(out, group.size(), uint8_t{8});
      scale = {};
      continue;
    }
    float least = GroupError(group, ToFloat(scale), out);
    for (const float span : {-8.6f, -8.3f, -7.7f, -7.4f, -7.0f, 7.7f, 7.4f, 7.0f}) {
      uint8_t trial[kInt4Group];
      const Bf16 candidate = ToBf16(extreme / span);
      if (ToFloat(candidate) == 0) continue;
      const float error = GroupError(group, ToFloat(candidate), trial);
      if (error >= least) continue;
      least = error;
      scale = candidate;
      std::copy_n(trial, group.size(), out);
    }
  }
  return true;
}

void PlaceBf16(std::span<const Bf16> row, int column, uint8_t* lines, int64_t stride) {
  for (size_t k = 0; k < row.size(); ++k) {
    auto* line = reinterpret_cast<uint16_t*>(lines + k / 2 * stride);
    line[2 * column + k % 2] = row[k].bits;
  }
}

void PlaceFp8(std::span<const uint8_t> codes, int column, uint8_t* lines, int64_t stride) {
  for (size_t k = 0; k < codes.size(); ++k) {
    const size_t lane = 2 * column + k % 2, half = k / 2 % 2;
    lines[k / 4 * stride + lane / 8 * 16 + half * 8 + lane % 8] = codes[k];
  }
}

void PlaceInt8(std::span<const uint8_t> codes, int column, uint8_t* lines, int64_t stride) {
  for (size_t k = 0; k < codes.size(); ++k) {
    lines[k / 4 * stride + 4 * column + k % 4] = codes[k] ^ 0x80;
  }
}

void PlaceInt4(std::span<const uint8_t> codes, std::span<const Bf16> scales, int column,
               uint8_t* lines, int64_t stride) {
  constexpr int kStepK = 64, kStepLines = 9;
  for (size_t g = 0; g < scales.size(); ++g) {
    auto* line = reinterpret_cast<uint16_t*>(lines + g / 2 * kStepLines * stride);
    line[g % 2 * 16 + column] = scales[g].bits;
  }
  for (size_t k = 0; k < codes.size(); ++k) {
    const size_t line = k / kStepK * kStepLines + 1 + k % kStepK / 8;
    uint8_t& byte = lines[line * stride + 4 * column + k % 4];
    byte |= static_cast<uint8_t>(codes[k] << (k % 8 < 4 ? 0 : 4));
  }
}

}  // namespace skim
