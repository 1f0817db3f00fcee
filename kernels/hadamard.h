// The rotation that makes rows of x and of int8 weights easy to quantise: the orthogonal
// Hadamard transform over blocks of 64 inputs. An outlier is spread over its block, and since
// x and W are rotated alike, their product stays what it was (QuaRot, arXiv 2404.00456). It
// needs no calibration. Six rounds of sums and differences in this order, then an exact 1/8:
// every instruction set gets the same bits.
#pragma once

#include <cstdint>

namespace skim {
namespace {

inline constexpr int kRotation = 64;
inline constexpr float kRotationScale = 0.125f;  // 1 / sqrt(64)

[[maybe_unused]] void RotateBlock(float* v) {
  for (int half = 1; half < kRotation; half *= 2) {
    for (int i = 0; i < kRotation; i += 2 * half) {
      for (int j = i; j < i + half; ++j) {
        const float a = v[j], b = v[j + half];
        v[j] = a + b;
        v[j + half] = a - b;
      }
    }
  }
  for (int i = 0; i < kRotation; ++i) v[i] *= kRotationScale;
}

}  // namespace
}  // namespace skim
