// From the sums of a product to the results of Ops::Linear and Ops::LinearSwiGlu, whoever added
// them up: linear.cu, or cuBLASLt for large_products.cu. Multiplications and additions are spelled
// out, so that the compiler fuses none of them in one kernel and not in the other: equal sums
// become equal bits. For nvcc only.
#pragma once

#include <type_traits>

#include "kernels/cuda/device_util.cuh"
#include "kernels/cuda/launch.h"

namespace skim::cuda {

// What a product with weights of a format is added up in.
template <WeightFormat kFormat>
using ProductSum = std::conditional_t<kFormat == WeightFormat::kInt8, int32_t, float>;

// The sum of a row of x and a packed feature as the number that it stands for.
template <WeightFormat kFormat>
__device__ inline float Scaled(ProductSum<kFormat> sum, const LinearInput& x, const WeightView& w,
                               int64_t row, int64_t feature) {
  auto value = static_cast<float>(sum);
  if constexpr (kFormat == WeightFormat::kFp8 || kFormat == WeightFormat::kInt8) {
    value = __fmul_rn(value, w.scales[feature]);
  }
  if constexpr (kFormat == WeightFormat::kInt8) value = __fmul_rn(value, x.scales[row]);
  return value;
}

// Feature `column` of a row to y[column]. `bias` may be null.
__device__ inline void PutLinear(float value, const float* bias, bool accumulate, int64_t column,
                                 float* y) {
  if (bias != nullptr) value = __fadd_rn(value, bias[column]);
  y[column] = accumulate ? __fadd_rn(y[column], value) : value;
}

// Column `column` of `columns` gates and ups. `bias` may be null.
__device__ inline Bf16 GatedUp(float gate, float up, const float* bias, int64_t column,
                               int64_t columns) {
  if (bias != nullptr) {
    gate = __fadd_rn(gate, bias[column]);
    up = __fadd_rn(up, bias[columns + column]);
  }
  return RoundToBf16(gate / __fadd_rn(1.0f, expf(-gate)) * up);
}

}  // namespace skim::cuda
