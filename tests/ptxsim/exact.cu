// Programs that are right: what the simulated device computes is what the host computes.
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <bit>
#include <cfenv>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <random>
#include <vector>

#include "tests/ptxsim/programs.h"

namespace {

constexpr int kThreads = 128;

// ---- integers: the same expressions on both sides ----

constexpr int kIntegerResults = 14;

__host__ __device__ void Integers(int32_t a, int32_t b, int64_t c, int64_t* out) {
  const auto ua = static_cast<uint32_t>(a), ub = static_cast<uint32_t>(b);
  const auto uc = static_cast<uint64_t>(c);
  const int32_t d = b == 0 ? 1 : b;
  out[0] = static_cast<int32_t>(ua + ub * 3);
  out[1] = a / d;
  out[2] = a % d;
  out[3] = ua / static_cast<uint32_t>(d);
  out[4] = a >> (b & 31);
  out[5] = ua >> (b & 31);
  out[6] = static_cast<int64_t>(uc << (b & 63));
  out[7] = c >> (b & 63);
  out[8] = static_cast<int64_t>(a) * b;
  out[9] = static_cast<int64_t>(uc * 0x9e3779b97f4a7c15u);
  out[10] = a < b ? a : b;
  out[11] = (a & b) ^ (~a | 0x1234);
  out[12] = static_cast<int8_t>(a) + static_cast<uint16_t>(b) + static_cast<int16_t>(c);
  out[13] = c % d;
}

__global__ void IntegerKernel(const int32_t* a, const int32_t* b, const int64_t* c, int64_t* out) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  Integers(a[i], b[i], c[i], out + i * kIntegerResults);
}

template <typename T>
T* ToDevice(const std::vector<T>& host) {
  T* device = nullptr;
  if (cudaMalloc(reinterpret_cast<void**>(&device), host.size() * sizeof(T)) != cudaSuccess) {
    return nullptr;
  }
  cudaMemcpy(device, host.data(), host.size() * sizeof(T), cudaMemcpyHostToDevice);
  return device;
}

template <typename T>
std::vector<T> ToHost(T* device, size_t count) {
  std::vector<T> host(count);
  cudaMemcpy(host.data(), device, count * sizeof(T), cudaMemcpyDeviceToHost);
  cudaFree(device);
  return host;
}

int IntegerProgram() {
  std::mt19937_64 random(1);
  std::vector<int32_t> a(2 * kThreads), b(a.size());
  std::vector<int64_t> c(a.size()), nothing(a.size() * kIntegerResults);
  for (size_t i = 0; i < a.size(); ++i) {
    a[i] = static_cast<int32_t>(random()) >> (i % 29);
    b[i] = static_cast<int32_t>(random()) >> (i % 31);
    c[i] = static_cast<int64_t>(random()) >> (i % 61);
  }
  auto *da = ToDevice(a), *db = ToDevice(b);
  auto *dc = ToDevice(c), *out = ToDevice(nothing);
  IntegerKernel<<<2, kThreads>>>(da, db, dc, out);
  MUST(cudaGetLastError());
  const auto got = ToHost(out, nothing.size());
  ToHost(da, 1), ToHost(db, 1), ToHost(dc, 1);
  for (size_t i = 0; i < a.size(); ++i) {
    int64_t want[kIntegerResults];
    Integers(a[i], b[i], c[i], want);
    for (int k = 0; k < kIntegerResults; ++k) {
      if (got[i * kIntegerResults + k] == want[k]) continue;
      std::printf("expression %d of a = %d, b = %d, c = %lld: %lld, not %lld\n", k, a[i], b[i],
                  static_cast<long long>(c[i]),
                  static_cast<long long>(got[i * kIntegerResults + k]),
                  static_cast<long long>(want[k]));
      return 1;
    }
  }
  return 0;
}

// ---- loads into wider registers ----

// In 64 bits, so that the compiler extends while it loads.
__host__ __device__ int64_t Scaled(int64_t value, int64_t by) { return value / 8 * by + value; }

__global__ void LoadKernel(const int8_t* bytes, const int16_t* halves, const int32_t* words,
                           int64_t by, int64_t* out) {
  out[threadIdx.x] = Scaled(bytes[threadIdx.x], by) + Scaled(halves[threadIdx.x], by) +
                     Scaled(words[threadIdx.x], by);
}

int LoadProgram() {
  constexpr int64_t kBy = 12345678901;
  std::mt19937_64 random(2);
  std::vector<int8_t> bytes(kThreads);
  std::vector<int16_t> halves(kThreads);
  std::vector<int32_t> words(kThreads);
  for (int i = 0; i < kThreads; ++i) {
    bytes[i] = static_cast<int8_t>(random());
    halves[i] = static_cast<int16_t>(random());
    words[i] = static_cast<int32_t>(random());
  }
  auto* device_bytes = ToDevice(bytes);
  auto* device_halves = ToDevice(halves);
  auto* device_words = ToDevice(words);
  auto* out = ToDevice(std::vector<int64_t>(kThreads));
  LoadKernel<<<1, kThreads>>>(device_bytes, device_halves, device_words, kBy, out);
  MUST(cudaGetLastError());
  const auto got = ToHost(out, kThreads);
  ToHost(device_bytes, 1), ToHost(device_halves, 1), ToHost(device_words, 1);
  for (int i = 0; i < kThreads; ++i) {
    const int64_t want = Scaled(bytes[i], kBy) + Scaled(halves[i], kBy) + Scaled(words[i], kBy);
    if (got[i] == want) continue;
    std::printf("of %d, %d and %d: %lld, not %lld\n", bytes[i], halves[i], words[i],
                static_cast<long long>(got[i]), static_cast<long long>(want));
    return 1;
  }
  return 0;
}

// ---- bits ----

__global__ void BitKernel(const uint32_t* a, uint32_t* out) {
  const uint32_t x = a[threadIdx.x], y = x * 2654435761u;
  uint32_t* o = out + threadIdx.x * 7;
  o[0] = __popc(x);
  o[1] = __clz(static_cast<int>(x));
  o[2] = __brev(x);
  o[3] = __byte_perm(x, y, 0x5a31 & 0x7777);
  o[4] = __funnelshift_l(x, y, x & 31);
  o[5] = __ffs(static_cast<int>(x));
  o[6] = __umulhi(x, y);
}

int BitProgram() {
  std::mt19937 random(2);
  std::vector<uint32_t> a(kThreads), nothing(kThreads * 7);
  for (uint32_t& x : a) x = random() >> (random() % 32);
  a[0] = 0;
  auto *da = ToDevice(a), *out = ToDevice(nothing);
  BitKernel<<<1, kThreads>>>(da, out);
  const auto got = ToHost(out, nothing.size());
  ToHost(da, 1);
  for (int i = 0; i < kThreads; ++i) {
    const uint32_t x = a[i], y = x * 2654435761u;
    const uint64_t pair = uint64_t{y} << 32 | x;
    uint32_t reversed = 0, permuted = 0;
    for (int k = 0; k < 32; ++k) reversed |= (x >> k & 1) << (31 - k);
    for (int k = 0; k < 4; ++k) {
      permuted |= static_cast<uint32_t>(pair >> 8 * ((0x5231 >> 4 * k) & 7) & 255) << 8 * k;
    }
    const uint32_t* o = got.data() + i * 7;
    EXPECT(o[0] == static_cast<uint32_t>(std::popcount(x)));
    EXPECT(o[1] == static_cast<uint32_t>(std::countl_zero(x)));
    EXPECT(o[2] == reversed);
    EXPECT(o[3] == permuted);
    EXPECT(o[4] == static_cast<uint32_t>((pair << (x & 31)) >> 32));
    EXPECT(o[5] == (x == 0 ? 0u : static_cast<uint32_t>(std::countr_zero(x)) + 1));
    EXPECT(o[6] == static_cast<uint32_t>(uint64_t{x} * y >> 32));
  }
  return 0;
}

// ---- floats ----

__global__ void FloatKernel(const float* a, float* out) {
  const float x = a[threadIdx.x], y = a[(threadIdx.x + 1) % kThreads];
  float* o = out + threadIdx.x * 10;
  o[0] = fmaf(x, y, -x);
  o[1] = x / y;
  o[2] = sqrtf(fabsf(x));
  o[3] = __fadd_rd(x, y);
  o[4] = __fadd_ru(x, y);
  o[5] = __bfloat162float(__float2bfloat16_rn(x));
  o[6] = __half2float(__float2half_rn(x));
  o[7] = expf(fminf(x, 20.0f));
  o[8] = static_cast<float>(__float2int_rz(x)) + rintf(y);
  o[9] = fmaxf(x, __int_as_float(0x7fc00000));
}

bool Near(float a, double b, double relative) {
  return std::abs(a - b) <= relative * std::abs(b) + 1e-37;
}

int FloatProgram() {
  std::mt19937 random(3);
  std::vector<float> a(kThreads), nothing(kThreads * 10);
  for (float& x : a) x = std::normal_distribution<float>(0, 30)(random);
  auto *da = ToDevice(a), *out = ToDevice(nothing);
  FloatKernel<<<1, kThreads>>>(da, out);
  const auto got = ToHost(out, nothing.size());
  ToHost(da, 1);
  for (int i = 0; i < kThreads; ++i) {
    const float x = a[i], y = a[(i + 1) % kThreads];
    const float* o = got.data() + i * 10;
    EXPECT(o[0] == std::fma(x, y, -x));
    EXPECT(o[1] == x / y);
    EXPECT(o[2] == std::sqrt(std::fabs(x)));
    const double sum = double{x} + y;  // exact
    EXPECT(o[3] <= sum && std::nextafter(o[3], INFINITY) > sum);
    EXPECT(o[4] >= sum && std::nextafter(o[4], -INFINITY) < sum);
    EXPECT(Near(o[5], x, 0x1p-8) && (std::bit_cast<uint32_t>(o[5]) & 0xffff) == 0);
    EXPECT(Near(o[6], x, 0x1p-11));
    EXPECT(Near(o[7], std::exp(std::fmin(double{x}, 20.0)), 1e-6));
    EXPECT(o[8] == std::trunc(x) + std::nearbyint(y));
    EXPECT(o[9] == x);
  }
  return 0;
}

// ---- warps, shared memory, atomics ----

__global__ void WarpKernel(uint32_t* out) {
  __shared__ uint32_t count;
  __shared__ uint32_t reversed[kThreads];
  const unsigned lane = threadIdx.x % 32;
  uint32_t* o = out + threadIdx.x * 7;
  o[0] = __shfl_xor_sync(~0u, threadIdx.x, 5);
  o[1] = __shfl_up_sync(~0u, threadIdx.x, 3);
  o[2] = __shfl_down_sync(~0u, threadIdx.x, 4, 8);
  o[3] = __ballot_sync(~0u, lane % 3 == 0);
  o[4] = __reduce_add_sync(~0u, lane);
  if (threadIdx.x == 0) count = 0;
  reversed[kThreads - 1 - threadIdx.x] = threadIdx.x;
  __syncthreads();
  atomicAdd(&count, threadIdx.x);
  o[5] = reversed[threadIdx.x];
  const int several = __syncthreads_count(threadIdx.x % 2);
  o[6] = count + several;
}

int WarpProgram() {
  std::vector<uint32_t> nothing(kThreads * 7);
  auto* out = ToDevice(nothing);
  WarpKernel<<<1, kThreads>>>(out);
  const auto got = ToHost(out, nothing.size());
  for (uint32_t t = 0; t < kThreads; ++t) {
    const uint32_t* o = got.data() + t * 7;
    const uint32_t lane = t % 32;
    EXPECT(o[0] == (t ^ 5));
    EXPECT(o[1] == (lane < 3 ? t : t - 3));
    EXPECT(o[2] == (lane % 8 + 4 < 8 ? t + 4 : t));
    EXPECT(o[3] == 0x49249249u);
    EXPECT(o[4] == 31 * 16);
    EXPECT(o[5] == kThreads - 1 - t);
    EXPECT(o[6] == kThreads * (kThreads - 1) / 2 + kThreads / 2);
  }
  return 0;
}

// ---- the host side ----

__global__ void AddOne(int* x) { *x += 1; }
__global__ void Double(int* x) { *x *= 2; }

// Two streams in the order that an event asks for.
int EventProgram() {
  for (int repeat = 0; repeat < 20; ++repeat) {
    cudaStream_t a, b;
    cudaEvent_t event;
    int *x, result = 0;
    MUST(cudaStreamCreateWithFlags(&a, cudaStreamNonBlocking));
    MUST(cudaStreamCreateWithFlags(&b, cudaStreamNonBlocking));
    MUST(cudaEventCreateWithFlags(&event, cudaEventDisableTiming));
    MUST(cudaMalloc(reinterpret_cast<void**>(&x), sizeof(int)));
    MUST(cudaMemsetAsync(x, 0, sizeof(int), a));
    AddOne<<<1, 1, 0, a>>>(x);
    MUST(cudaEventRecord(event, a));
    MUST(cudaStreamWaitEvent(b, event, 0));
    Double<<<1, 1, 0, b>>>(x);
    MUST(cudaMemcpyAsync(&result, x, sizeof(int), cudaMemcpyDeviceToHost, b));
    EXPECT(result == 0);  // nothing has run yet: nobody waited
    MUST(cudaStreamSynchronize(b));
    EXPECT(result == 2);
    MUST(cudaFree(x));
    MUST(cudaEventDestroy(event));
    MUST(cudaStreamDestroy(a));
    MUST(cudaStreamDestroy(b));
  }
  return 0;
}

__global__ void __launch_bounds__(64) Bounded(int*) {}

int LimitProgram() {
  AddOne<<<1, 1025>>>(nullptr);
  EXPECT(cudaGetLastError() == cudaErrorInvalidConfiguration);
  AddOne<<<0, 32>>>(nullptr);
  EXPECT(cudaGetLastError() == cudaErrorInvalidConfiguration);
  AddOne<<<1, 32, 49 << 10>>>(nullptr);
  EXPECT(cudaGetLastError() == cudaErrorInvalidValue);
  Bounded<<<1, 128>>>(nullptr);
  EXPECT(cudaGetLastError() != cudaSuccess);
  void* much = nullptr;
  EXPECT(cudaMalloc(&much, size_t{1} << 50) == cudaErrorMemoryAllocation);
  return 0;
}

// A pool that keeps its memory, and work that goes on with what is freed behind it.
int PoolProgram() {
  cudaStream_t stream;
  cudaMemPool_t pool;
  cudaMemPoolProps properties = {};
  properties.allocType = cudaMemAllocationTypePinned;
  properties.location = {cudaMemLocationTypeDevice, 0};
  uint64_t keep = UINT64_MAX;
  size_t before = 0, after = 0, total = 0;
  constexpr size_t kBytes = 1 << 20;
  void* much = nullptr;
  int *x = nullptr, *y = nullptr, result = 0;
  MUST(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
  MUST(cudaMemGetInfo(&before, &total));
  MUST(cudaMemPoolCreate(&pool, &properties));
  MUST(cudaMemPoolSetAttribute(pool, cudaMemPoolAttrReleaseThreshold, &keep));
  EXPECT(cudaMallocFromPoolAsync(&much, total + 1, pool, stream) == cudaErrorMemoryAllocation);
  MUST(cudaMallocFromPoolAsync(&much, kBytes, pool, stream));
  MUST(cudaFreeAsync(much, stream));
  MUST(cudaMallocFromPoolAsync(reinterpret_cast<void**>(&x), sizeof(int), pool, stream));
  MUST(cudaMemsetAsync(x, 0, sizeof(int), stream));
  AddOne<<<1, 1, 0, stream>>>(x);
  MUST(cudaMallocFromPoolAsync(reinterpret_cast<void**>(&y), sizeof(int), pool, stream));
  MUST(cudaMemcpyAsync(y, x, sizeof(int), cudaMemcpyDeviceToDevice, stream));
  MUST(cudaFreeAsync(x, stream));
  Double<<<1, 1, 0, stream>>>(y);
  MUST(cudaMemcpyAsync(&result, y, sizeof(int), cudaMemcpyDeviceToHost, stream));
  MUST(cudaFreeAsync(y, stream));
  MUST(cudaStreamSynchronize(stream));
  EXPECT(result == 2);
  MUST(cudaMemGetInfo(&after, &total));
  EXPECT(after == before - kBytes);
  MUST(cudaMemPoolDestroy(pool));
  MUST(cudaMemGetInfo(&after, &total));
  EXPECT(after == before);
  MUST(cudaStreamDestroy(stream));
  return 0;
}

// Exits 0 if every call works: the test injects faults.
int PlainProgram() {
  int* x = nullptr;
  MUST(cudaMalloc(reinterpret_cast<void**>(&x), sizeof(int)));
  MUST(cudaMemset(x, 0, sizeof(int)));
  AddOne<<<1, 1>>>(x);
  MUST(cudaGetLastError());
  MUST(cudaDeviceSynchronize());
  MUST(cudaFree(x));
  return 0;
}

}  // namespace

Programs CorrectPrograms() {
  return {{"integers", IntegerProgram}, {"loads", LoadProgram}, {"bits", BitProgram},
          {"floats", FloatProgram},     {"warps", WarpProgram}, {"events", EventProgram},
          {"limits", LimitProgram},     {"pools", PoolProgram}, {"plain", PlainProgram}};
}
