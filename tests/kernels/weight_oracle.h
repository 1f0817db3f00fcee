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
  std::vector<std::vector<double>> codes;   // [rows][k], values of the codes
  std::vector<std::vector<double>> scales;  // [rows][k]

  double at(int64_t row, int64_t k) const { return codes[row][k] * scales[row][k]; }
};

UnpackedWeight Unpack(const CpuPackedWeight& packed);

// One row of x as the format multiplies it: quantised by its own maximum, or as it is.
std::vector<double> InputOf(WeightFormat format, const TestMatrix<Bf16>& x, int64_t row);

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
