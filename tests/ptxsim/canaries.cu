// Programs that break one rule each. On a real device several of them may seem to work.
#include "kernels/cuda/mma.cuh"
#include "tests/ptxsim/programs.h"

namespace {

using namespace skim::cuda;

constexpr int kThreads = 64;

// Runs a kernel of one block over a buffer of `floats`.
template <typename Kernel>
int Over(Kernel kernel, int floats = 1024, int threads = kThreads) {
  float* data = nullptr;
  MUST(cudaMalloc(reinterpret_cast<void**>(&data), floats * sizeof(float)));
  MUST(cudaMemset(data, 0, floats * sizeof(float)));
  kernel<<<1, threads>>>(data);
  MUST(cudaGetLastError());
  MUST(cudaDeviceSynchronize());
  MUST(cudaFree(data));
  return 0;
}

__global__ void MissingBarrier(float* data) {
  __shared__ float shared[kThreads];
  shared[threadIdx.x] = data[threadIdx.x];
  data[threadIdx.x] = shared[kThreads - 1 - threadIdx.x];
}

__global__ void MissingBarrierBeforeReuse(float* data) {
  __shared__ float shared[kThreads];
  for (int turn = 0; turn < 2; ++turn) {
    shared[threadIdx.x] = data[threadIdx.x];
    __syncthreads();
    data[threadIdx.x] += shared[kThreads - 1 - threadIdx.x];
  }
}

__global__ void MissingWarpSync(float* data) {
  __shared__ float shared[32];
  shared[threadIdx.x] = data[threadIdx.x];
  data[threadIdx.x] = shared[31 - threadIdx.x];
}

__global__ void DivergentBarrier(float* data) {
  if (threadIdx.x < 32) {
    data[0] = 1;
    __syncthreads();
  } else {
    data[1] = 2;
    __syncthreads();
  }
}

__global__ void BarrierAfterExit(float* data) {
  if (threadIdx.x == 5) return;
  __syncthreads();
  data[threadIdx.x] = 1;
}

__global__ void OutOfBounds(float* data) { data[1024 + threadIdx.x] = 1; }
__global__ void BeforeTheBuffer(float* data) { data[-1] = 1; }
__global__ void Misaligned(float* data) {
  *reinterpret_cast<float4*>(data + 1 + threadIdx.x * 4 % 64) = float4{};
}

__global__ void SharedOutOfBounds(float* data) {
  __shared__ float shared[kThreads];
  shared[threadIdx.x + 1] = data[threadIdx.x];
  __syncthreads();
  data[threadIdx.x] = shared[kThreads - threadIdx.x];
}

__global__ void UninitialisedShared(float* data) {
  __shared__ float shared[2 * kThreads];
  shared[threadIdx.x] = 1;
  __syncthreads();
  data[threadIdx.x] = shared[threadIdx.x + 1];
}

template <int kPending, bool kBarrier>
__global__ void AsyncCopy(float* data) {
  __shared__ __align__(16) float shared[2][kThreads * 4];
  for (int i = 0; i < 2; ++i) {
    CopyAsync16(&shared[i][threadIdx.x * 4], data + i * kThreads * 4 + threadIdx.x * 4, true);
    CommitAsync();
  }
  WaitAsync<kPending>();
  if (kBarrier) __syncthreads();
  const int from = kBarrier ? kThreads - 1 - threadIdx.x : (threadIdx.x + 1) % kThreads;
  data[threadIdx.x] = shared[1][from * 4];
  WaitAsync<0>();
}

__global__ void CopyNobodyWaitsFor(float* data) {
  __shared__ __align__(16) float shared[kThreads * 4];
  CopyAsync16(&shared[threadIdx.x * 4], data + threadIdx.x * 4, true);
  CommitAsync();
}

// Rows of 16 bytes for ldmatrix, which each lane brings and others read.
template <int kShift, bool kWait, bool kBarrier>
__global__ void LoadMatrix(float* data) {
  __shared__ __align__(16) float rows[2 * kThreads * 4];
  CopyAsync16(&rows[threadIdx.x * 4], data + threadIdx.x * 4, true);
  CopyAsync16(&rows[(kThreads + threadIdx.x) * 4], data + threadIdx.x * 4, true);
  CommitAsync();
  if (kWait) WaitAsync<0>();
  if (kBarrier) __syncthreads();
  uint32_t a[4];
  LoadMatrixA(a, rows + (kThreads - 1 - threadIdx.x) * 4 + kShift);
  data[threadIdx.x] = static_cast<float>(a[0] + a[3]);
  WaitAsync<0>();
}

__global__ void ShuffleMaskOfHalf(float* data) {
  data[threadIdx.x] = __shfl_xor_sync(0xffffu, data[threadIdx.x], 1);
}

__global__ void ShuffleFromOutsideTheMask(float* data) {
  if (threadIdx.x % 32 < 16) data[threadIdx.x] = __shfl_sync(0xffffu, data[threadIdx.x], 20);
}

__global__ void ShuffleAfterExit(float* data) {
  if (threadIdx.x == 3) return;
  data[threadIdx.x] = __shfl_xor_sync(0xffffffffu, data[threadIdx.x], 1);
}

__global__ void ShuffleInABranch(float* data) {
  if (threadIdx.x % 2 == 0) data[threadIdx.x] = __shfl_xor_sync(0xffffffffu, data[threadIdx.x], 2);
  __syncthreads();
}

__global__ void Fill(float* data) { data[threadIdx.x] = 1; }
__global__ void UnknownOpcode(float* data) {
  int sum;
  asm volatile("sad.s32 %0, %1, 5, 7;" : "=r"(sum) : "r"(threadIdx.x));
  data[threadIdx.x] = static_cast<float>(sum);
}

int UseAfterFree() {
  float* data = nullptr;
  MUST(cudaMalloc(reinterpret_cast<void**>(&data), 1024));
  MUST(cudaFree(data));
  Fill<<<1, kThreads>>>(data);
  MUST(cudaDeviceSynchronize());
  return 0;
}

// A kernel over a piece of 1024 floats of a pool, which is freed before it or not at all.
template <bool kFreed, bool kForgotten, typename Kernel>
int OverPool(Kernel kernel) {
  cudaStream_t stream;
  cudaMemPool_t pool;
  cudaMemPoolProps properties = {};
  properties.allocType = cudaMemAllocationTypePinned;
  properties.location = {cudaMemLocationTypeDevice, 0};
  float *data = nullptr, *beside = nullptr;
  MUST(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
  MUST(cudaMemPoolCreate(&pool, &properties));
  for (float** piece : {&data, &beside}) {
    MUST(cudaMallocFromPoolAsync(reinterpret_cast<void**>(piece), 4096, pool, stream));
    MUST(cudaMemsetAsync(*piece, 0, 4096, stream));
  }
  if (kFreed) MUST(cudaFreeAsync(data, stream));
  kernel<<<1, kThreads, 0, stream>>>(data);
  MUST(cudaGetLastError());
  MUST(cudaStreamSynchronize(stream));
  if (!kFreed && !kForgotten) MUST(cudaFreeAsync(data, stream));
  MUST(cudaFreeAsync(beside, stream));
  MUST(cudaMemPoolDestroy(pool));
  MUST(cudaStreamDestroy(stream));
  return 0;
}

int HostPointer() {
  static float data[kThreads];
  Fill<<<1, kThreads>>>(data);
  MUST(cudaDeviceSynchronize());
  return 0;
}

int Leak() {
  void* data = nullptr;
  MUST(cudaMalloc(&data, 1024));
  return 0;
}

int DoubleFree() {
  void* data = nullptr;
  MUST(cudaMalloc(&data, 1024));
  MUST(cudaFree(data));
  MUST(cudaFree(data));
  return 0;
}

int CopyPastTheEnd() {
  static char host[2048];
  void* data = nullptr;
  MUST(cudaMalloc(&data, 1024));
  MUST(cudaMemcpy(data, host, 2048, cudaMemcpyHostToDevice));
  MUST(cudaFree(data));
  return 0;
}

int HostReadsDevice() {
  float* data = nullptr;
  MUST(cudaMalloc(reinterpret_cast<void**>(&data), 1024));
  const float value = *static_cast<volatile float*>(data);
  MUST(cudaFree(data));
  return value == 0 ? 0 : 3;
}

int NobodyWaits() {
  static float host[256];
  static float* data = nullptr;
  MUST(cudaMalloc(reinterpret_cast<void**>(&data), 1024));
  MUST(cudaMemcpyAsync(data, host, 1024, cudaMemcpyHostToDevice, nullptr));
  return 0;
}

}  // namespace

Programs Canaries() {
  return {{"missing-barrier", [] { return Over(MissingBarrier); }},
          {"missing-barrier-before-reuse", [] { return Over(MissingBarrierBeforeReuse); }},
          {"missing-warp-sync", [] { return Over(MissingWarpSync, 1024, 32); }},
          {"divergent-barrier", [] { return Over(DivergentBarrier); }},
          {"barrier-after-exit", [] { return Over(BarrierAfterExit); }},
          {"out-of-bounds", [] { return Over(OutOfBounds); }},
          {"before-the-buffer", [] { return Over(BeforeTheBuffer); }},
          {"misaligned", [] { return Over(Misaligned); }},
          {"shared-out-of-bounds", [] { return Over(SharedOutOfBounds); }},
          {"uninitialised-shared", [] { return Over(UninitialisedShared); }},
          {"async-one-group-too-few", [] { return Over(AsyncCopy<1, true>); }},
          {"async-without-barrier", [] { return Over(AsyncCopy<0, false>); }},
          {"async-nobody-waits", [] { return Over(CopyNobodyWaitsFor); }},
          {"matrix-rows-misaligned", [] { return Over(LoadMatrix<1, true, true>); }},
          {"matrix-of-a-copy-under-way", [] { return Over(LoadMatrix<0, false, true>); }},
          {"matrix-without-barrier", [] { return Over(LoadMatrix<0, true, false>); }},
          {"shuffle-mask-of-half", [] { return Over(ShuffleMaskOfHalf); }},
          {"shuffle-from-outside", [] { return Over(ShuffleFromOutsideTheMask); }},
          {"shuffle-after-exit", [] { return Over(ShuffleAfterExit); }},
          {"shuffle-in-a-branch", [] { return Over(ShuffleInABranch); }},
          {"unknown-opcode", [] { return Over(UnknownOpcode); }},
          {"use-after-free", UseAfterFree},
          {"pool-out-of-bounds", [] { return OverPool<false, false>(OutOfBounds); }},
          {"pool-use-after-free", [] { return OverPool<true, false>(Fill); }},
          {"pool-leak", [] { return OverPool<false, true>(Fill); }},
          {"host-pointer", HostPointer},
          {"leak", Leak},
          {"double-free", DoubleFree},
          {"copy-past-the-end", CopyPastTheEnd},
          {"host-reads-device", HostReadsDevice},
          {"nobody-waits", NobodyWaits}};
}
