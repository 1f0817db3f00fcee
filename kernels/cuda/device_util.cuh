// Small things that several kernels need. Device code only.
#pragma once

#include <cuda_bf16.h>

#include <cstdint>

#include "base/bf16.h"

namespace skim::cuda {

inline constexpr int kWarp = 32;
inline constexpr unsigned kAllLanes = 0xffffffffu;

__device__ inline float FromBf16(Bf16 x) { return __uint_as_float(uint32_t{x.bits} << 16); }
__device__ inline Bf16 RoundToBf16(float x) {
  return {__bfloat16_as_ushort(__float2bfloat16_rn(x))};
}

// The low and high half of a pair as it lies in memory.
__device__ inline float LowBf16(uint32_t pair) { return __uint_as_float(pair << 16); }
__device__ inline float HighBf16(uint32_t pair) { return __uint_as_float(pair & 0xffff0000u); }

// Sum over the warp, in every lane; the order of additions is fixed.
__device__ inline float WarpSum(float x) {
  for (int step = kWarp / 2; step > 0; step /= 2) x += __shfl_xor_sync(kAllLanes, x, step);
  return x;
}

__device__ inline float WarpMax(float x) {
  for (int step = kWarp / 2; step > 0; step /= 2) x = fmaxf(x, __shfl_xor_sync(kAllLanes, x, step));
  return x;
}

}  // namespace skim::cuda
