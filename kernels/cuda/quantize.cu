// Rows of x to the int8 codes that int8 and int4 weights are multiplied with: a block per row. The
// same operations in the same order as on the CPU, so the codes are the same, too.
#include "kernels/cuda/device_util.cuh"
#include "kernels/cuda/launch.h"
#include "kernels/hadamard.h"

namespace skim::cuda {
namespace {

constexpr int kWarps = 4;
constexpr int kThreads = kWarps * kWarp;
constexpr float kFloor = 0x1p-100f;  // below this a row, or a group, counts as zero

static_assert(kRotation == 2 * kWarp, "a lane holds two numbers of a rotated block");

struct Two {
  float low, high;  // numbers `lane` and `lane` + 32 of a block of 64
};

__device__ float NumberAt(Matrix<const Bf16> x, int64_t k) {
  return k < x.cols ? FromBf16(x.data[blockIdx.x * x.stride + k]) : 0;
}

template <bool kRotate>
__device__ Two BlockAt(Matrix<const Bf16> x, int64_t block) {
  const int lane = threadIdx.x % kWarp;
  Two v = {NumberAt(x, block * kRotation + lane), NumberAt(x, block * kRotation + lane + kWarp)};
  if constexpr (kRotate) {
    for (int half = 1; half < kWarp; half *= 2) {
      const float low = __shfl_xor_sync(kAllLanes, v.low, half);
      const float high = __shfl_xor_sync(kAllLanes, v.high, half);
      const bool second = (lane & half) != 0;
      v = {second ? low - v.low : v.low + low, second ? high - v.high : v.high + high};
    }
    v = {(v.low + v.high) * kRotationScale, (v.low - v.high) * kRotationScale};
  }
  return v;
}

// Keeps NaN, which fmaxf would lose.
__device__ float Larger(float a, float b) { return !(a >= b) ? (isnan(a) ? a : b) : a; }

__device__ float WarpLargest(float x) {
  for (int step = kWarp / 2; step > 0; step /= 2) {
    x = Larger(x, __shfl_xor_sync(kAllLanes, x, step));
  }
  return x;
}

// What the numbers are multiplied with to get codes, and the codes to get the numbers.
struct CodeScale {
  float to_codes, from_codes;
};

__device__ CodeScale ScaleOf(float largest) {
  if (!isfinite(largest)) return {0, __int_as_float(0x7fffffff)};
  if (largest < kFloor) return {0, 0};
  return {127.0f / largest, largest / 127.0f};
}

__device__ int CodeOf(float x, const CodeScale& scale) {
  // What is not finite has a scale to tell.
  return scale.to_codes == 0 ? 0 : __float2int_rn(x * scale.to_codes);
}

template <bool kRotate>
__global__ void __launch_bounds__(kThreads)
    QuantizeRows(Matrix<const Bf16> x, int64_t padded, int8_t* codes, float* scales) {
  __shared__ float partial[kWarps];
  const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
  const int64_t blocks = padded / kRotation;
  float largest = 0;
  for (int64_t block = warp; block < blocks; block += kWarps) {
    const Two v = BlockAt<kRotate>(x, block);
    largest = Larger(Larger(largest, fabsf(v.low)), fabsf(v.high));
  }
  largest = WarpLargest(largest);
  if (lane == 0) partial[warp] = largest;
  __syncthreads();
  for (const float other : partial) largest = Larger(largest, other);
  const CodeScale scale = ScaleOf(largest);
  int8_t* out = codes + blockIdx.x * padded;
  for (int64_t block = warp; block < blocks; block += kWarps) {
    const Two v = BlockAt<kRotate>(x, block);
    out[block * kRotation + lane] = static_cast<int8_t>(CodeOf(v.low, scale));
    out[block * kRotation + lane + kWarp] = static_cast<int8_t>(CodeOf(v.high, scale));
  }
  if (threadIdx.x == 0) scales[blockIdx.x] = scale.from_codes;
}

__global__ void __launch_bounds__(kThreads)
    QuantizeGroups(Matrix<const Bf16> x, int64_t padded, int8_t* codes, InputGroup* groups) {
  const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
  const int64_t count = padded / kInt4Group;
  for (int64_t group = warp; group < count; group += kWarps) {
    const float number = NumberAt(x, group * kInt4Group + lane);
    const CodeScale scale = ScaleOf(WarpLargest(fabsf(number)));
    const int code = CodeOf(number, scale);
    int sum = code;
    for (int step = kWarp / 2; step > 0; step /= 2) sum += __shfl_xor_sync(kAllLanes, sum, step);
    codes[blockIdx.x * padded + group * kInt4Group + lane] = static_cast<int8_t>(code);
    if (lane == 0) {
      groups[blockIdx.x * count + group] = {scale.from_codes,
                                            scale.from_codes * static_cast<float>(sum)};
    }
  }
}

}  // namespace

void LaunchQuantizeRows(LaunchQueue& queue, Matrix<const Bf16> x, int64_t padded, bool rotate,
                        int8_t* codes, float* scales) {
  auto* kernel = rotate ? QuantizeRows<true> : QuantizeRows<false>;
  queue.Add(kernel, static_cast<unsigned>(x.rows), kThreads, 0, x, padded, codes, scales);
}

void LaunchQuantizeGroups(LaunchQueue& queue, Matrix<const Bf16> x, int64_t padded, int8_t* codes,
                          InputGroup* groups) {
  static_assert(kInt4Group == kWarp, "a lane holds one number of a group");
  queue.Add(QuantizeGroups, static_cast<unsigned>(x.rows), kThreads, 0, x, padded, codes, groups);
}

}  // namespace skim::cuda
