// Small things that several kernels need. For nvcc only.
#pragma once

#include <cuda_bf16.h>

#include <cstdint>
#include <type_traits>

#include "base/bf16.h"
#include "kernels/cuda/launch_queue.h"

namespace skim::cuda {

inline constexpr int kWarp = 32;
inline constexpr unsigned kAllLanes = 0xffffffffu;

// A kernel's last template argument says how much dynamic shared memory it is launched with, so
// that tools/cuda_kernels.py can read it from the kernel's name.
template <int kSharedBytes>
struct DynamicShared {
  static constexpr int kBytes = kSharedBytes;
};

// Launches a kernel with that much; what is more than the default has to be asked for.
template <typename Shared, typename... Args>
void LaunchWithShared(void (*kernel)(Args...), dim3 grid, int threads, LaunchQueue& queue,
                      const std::type_identity_t<Args>&... args) {
  constexpr int kDefault = 48 << 10;
  if constexpr (Shared::kBytes > kDefault) {
    cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, Shared::kBytes);
  }
  queue.Add(kernel, grid, threads, Shared::kBytes, args...);
}

__device__ inline float FromBf16(Bf16 x) { return __uint_as_float(uint32_t{x.bits} << 16); }
__device__ inline Bf16 RoundToBf16(float x) {
  return {__bfloat16_as_ushort(__float2bfloat16_rn(x))};
}

// The low and high half of a pair as it lies in memory.
__device__ inline float LowBf16(uint32_t pair) { return __uint_as_float(pair << 16); }
__device__ inline float HighBf16(uint32_t pair) { return __uint_as_float(pair & 0xffff0000u); }
// Two floats, rounded, as such a pair.
__device__ inline uint32_t PackBf16(float low, float high) {
  uint32_t pair;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
  return pair;
}

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
