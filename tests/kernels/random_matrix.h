// Random operands for kernel tests: reproducible, with room between the rows.
#pragma once

#include <cmath>
#include <cstdint>
#include <random>
#include <vector>

#include "base/bf16.h"
#include "kernels/matrix.h"

namespace skim {

template <typename T>
class TestMatrix {
 public:
  TestMatrix(int64_t rows, int64_t cols, int64_t extra_stride = 0, T fill = {})
      : cells_(rows * (cols + extra_stride), fill),
        rows_(rows),
        cols_(cols),
        stride_(cols + extra_stride) {}

  Matrix<T> view() { return {cells_.data(), rows_, cols_, stride_}; }
  Matrix<const T> view() const { return {cells_.data(), rows_, cols_, stride_}; }
  T& at(int64_t r, int64_t c) { return cells_[r * stride_ + c]; }
  const T& at(int64_t r, int64_t c) const { return cells_[r * stride_ + c]; }
  int64_t rows() const { return rows_; }
  int64_t cols() const { return cols_; }
  int64_t stride() const { return stride_; }

 private:
  std::vector<T> cells_;
  int64_t rows_, cols_, stride_;
};

// Uniform values of mean 0 and standard deviation `scale`; a generator cheap enough for
// tens of millions of them under a sanitizer.
inline TestMatrix<Bf16> RandomBf16(uint32_t seed, int64_t rows, int64_t cols, float scale = 1,
                                   int64_t extra_stride = 0) {
  uint64_t state = seed;
  const float unit = scale * std::sqrt(3.0f) / (1 << 23);
  // What lies between rows must never be read: NaN would show.
  TestMatrix<Bf16> m(rows, cols, extra_stride, ToBf16(std::nanf("")));
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t c = 0; c < cols; ++c) {
      state = state * 6364136223846793005u + 1442695040888963407u;
      m.at(r, c) = ToBf16(static_cast<float>(static_cast<int32_t>(state >> 40) - (1 << 23)) * unit);
    }
  }
  return m;
}

inline std::vector<float> RandomFloats(uint32_t seed, int64_t count) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  std::vector<float> v(count);
  for (float& x : v) x = normal(random);
  return v;
}

}  // namespace skim
