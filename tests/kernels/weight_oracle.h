// What packed weights stand for, read by the description of the layout in packed_weight.h,
// and what a product with them is in exact arithmetic.
#pragma once

#include <cstdint>
#include <vector>

#include "kernels/cpu/packed_weight.h"
#include "tests/kernels/random_matrix.h"

namespace skim {

struct UnpackedWeight {
  WeightFormat format;
  bool rotated;                              // columns are those of the rotated weight
  std::vector<std::vector<double>> codes;    // [rows][k], values of the codes
  std::vector<std::vector<double>> scales;   // [rows][k]
  std::vector<std::vector<double>> offsets;  // [rows][k], 0 but for int4

  int64_t k() const { return static_cast<int64_t>(codes[0].size()); }
  double at(int64_t row, int64_t k) const {
    return codes[row][k] * scales[row][k] + offsets[row][k];
  }
};

// A rotated weight keeps its padding: rotation leaves none of it zero.
UnpackedWeight Unpack(const CpuPackedWeight& packed);

// A row padded to blocks of 64 and multiplied by the normalised Hadamard matrix, in the order
// of additions that hadamard.h states.
std::vector<double> Rotated(const TestMatrix<Bf16>& m, int64_t row);

// One row of x as it meets the weight: rotated, quantised by its own maxima, or as it is.
std::vector<double> InputOf(const UnpackedWeight& w, const TestMatrix<Bf16>& x, int64_t row);

// A sum in double, with a bound on what fp32 accumulation in any order may differ by: at
// most two roundings of half an ulp (2^-24) per product, each at most the sum of magnitudes,
// one flushed denormal per product, and the epilogue's roundings.
struct Exact {
  double value = 0;
  double bound = 0;
};
Exact ExactDot(const std::vector<double>& x, const UnpackedWeight& w, int64_t row,
               const float* bias);

}  // namespace skim
