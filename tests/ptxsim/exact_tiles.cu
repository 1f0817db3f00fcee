// How tiles get into shared memory and out of it: cp.async and ldmatrix bring what the PTX ISA
// says, to where it says.
#include <cstdint>
#include <numeric>
#include <vector>

#include "kernels/cuda/mma.cuh"
#include "tests/ptxsim/programs.h"

namespace {

using namespace skim::cuda;

constexpr int kLanes = 32, kSide = 8;
constexpr int kRow = kSide + 8;  // elements from one row of a matrix to the next

// Matrix j has its rows at lanes 8j .. 8j + 7, here in reverse order.
template <int kCount, bool kTransposed>
__global__ void Load(const uint16_t* in, uint32_t* out) {
  __shared__ __align__(16) uint16_t rows[kLanes * kRow];
  for (int i = threadIdx.x; i < kLanes * kRow; i += kLanes) rows[i] = in[i];
  __syncthreads();
  const uint32_t row = SharedAddress(rows + (kLanes - 1 - threadIdx.x) * kRow);
  uint32_t d[4] = {};
  if constexpr (kCount == 1 && !kTransposed) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%0}, [%1];" : "=r"(d[0]) : "r"(row));
  } else if constexpr (kCount == 2 && kTransposed) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0, %1}, [%2];"
                 : "=r"(d[0]), "=r"(d[1])
                 : "r"(row));
  } else if constexpr (kTransposed) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(d[0]), "=r"(d[1]), "=r"(d[2]), "=r"(d[3])
                 : "r"(row));
  } else {
    LoadMatrixA(d, rows + (kLanes - 1 - threadIdx.x) * kRow);
  }
  for (int j = 0; j < kCount; ++j) out[j * kLanes + threadIdx.x] = d[j];
}

template <int kCount, bool kTransposed>
int CheckLoad() {
  std::vector<uint16_t> in(kLanes * kRow);
  std::iota(in.begin(), in.end(), uint16_t{100});
  std::vector<uint32_t> out(kCount * kLanes);
  uint16_t* device_in = nullptr;
  uint32_t* device_out = nullptr;
  MUST(cudaMalloc(reinterpret_cast<void**>(&device_in), in.size() * sizeof(in[0])));
  MUST(cudaMalloc(reinterpret_cast<void**>(&device_out), out.size() * sizeof(out[0])));
  MUST(cudaMemcpy(device_in, in.data(), in.size() * sizeof(in[0]), cudaMemcpyHostToDevice));
  Load<kCount, kTransposed><<<1, kLanes>>>(device_in, device_out);
  MUST(cudaGetLastError());
  MUST(cudaMemcpy(out.data(), device_out, out.size() * sizeof(out[0]), cudaMemcpyDeviceToHost));
  const auto element = [&](int matrix, int row, int column) -> uint32_t {
    return in[(kLanes - 1 - (matrix * kSide + row)) * kRow + column];
  };
  for (int j = 0; j < kCount; ++j) {
    for (int lane = 0; lane < kLanes; ++lane) {
      const int r = lane / 4, c = lane % 4 * 2;
      const uint32_t low = kTransposed ? element(j, c, r) : element(j, r, c);
      const uint32_t high = kTransposed ? element(j, c + 1, r) : element(j, r, c + 1);
      EXPECT(out[j * kLanes + lane] == (high << 16 | low));
    }
  }
  MUST(cudaFree(device_in));
  MUST(cudaFree(device_out));
  return 0;
}

int LoadMatrixProgram() {
  for (const int failed :
       {CheckLoad<1, false>(), CheckLoad<4, false>(), CheckLoad<2, true>(), CheckLoad<4, true>()}) {
    if (failed != 0) return failed;
  }
  return 0;
}

// Two tiles by turns: one is read while the other is on its way. What is not there becomes zeros.
__global__ void Stream(const uint4* in, int tiles, int missing, uint4* out) {
  __shared__ uint4 shared[2][kLanes];
  const int from = kLanes - 1 - threadIdx.x;  // what another lane has copied
  CopyAsync16(&shared[0][threadIdx.x], in + threadIdx.x, missing != 0);
  CommitAsync();
  for (int tile = 0; tile < tiles; ++tile) {
    if (tile + 1 < tiles) {
      CopyAsync16(&shared[(tile + 1) % 2][threadIdx.x], in + (tile + 1) * kLanes + threadIdx.x,
                  missing != tile + 1);
    }
    CommitAsync();
    WaitAsync<1>();
    __syncthreads();
    out[tile * kLanes + from] = shared[tile % 2][from];
    __syncthreads();
  }
  WaitAsync<0>();
}

// Four, eight and sixteen bytes, and a part of sixteen.
__global__ void Narrow(const uint32_t* in, uint32_t* out) {
  __shared__ __align__(16) uint32_t shared[12];
  const uint32_t to = SharedAddress(shared);
  asm volatile("cp.async.ca.shared.global [%0], [%1], 4;" ::"r"(to), "l"(in) : "memory");
  asm volatile("cp.async.ca.shared.global [%0], [%1], 4;" ::"r"(to + 4), "l"(in + 5) : "memory");
  asm volatile("cp.async.ca.shared.global [%0], [%1], 8;" ::"r"(to + 8), "l"(in + 2) : "memory");
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(to + 16), "l"(in + 4) : "memory");
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to + 32), "l"(in + 8), "r"(8)
               : "memory");
  asm volatile("cp.async.wait_all;" ::: "memory");
  for (int i = 0; i < 12; ++i) out[i] = shared[i];
}

int CopyAsyncProgram() {
  constexpr int kTiles = 5, kMissing = 3, kWords = kTiles * kLanes * 4;
  std::vector<uint32_t> in(kWords), out(kWords);
  std::iota(in.begin(), in.end(), 1u);
  uint32_t *device_in = nullptr, *device_out = nullptr;
  constexpr size_t kBytes = kWords * sizeof(uint32_t);
  MUST(cudaMalloc(reinterpret_cast<void**>(&device_in), kBytes));
  MUST(cudaMalloc(reinterpret_cast<void**>(&device_out), kBytes));
  MUST(cudaMemcpy(device_in, in.data(), kBytes, cudaMemcpyHostToDevice));
  Stream<<<1, kLanes>>>(reinterpret_cast<const uint4*>(device_in), kTiles, kMissing,
                        reinterpret_cast<uint4*>(device_out));
  MUST(cudaGetLastError());
  MUST(cudaMemcpy(out.data(), device_out, kBytes, cudaMemcpyDeviceToHost));
  for (int i = 0; i < kWords; ++i) EXPECT(out[i] == (i / (kLanes * 4) == kMissing ? 0 : in[i]));
  Narrow<<<1, 1>>>(device_in, device_out);
  MUST(cudaGetLastError());
  MUST(cudaMemcpy(out.data(), device_out, kBytes, cudaMemcpyDeviceToHost));
  const uint32_t want[12] = {1, 6, 3, 4, 5, 6, 7, 8, 9, 10, 0, 0};
  for (int i = 0; i < 12; ++i) EXPECT(out[i] == want[i]);
  MUST(cudaFree(device_in));
  MUST(cudaFree(device_out));
  return 0;
}

}  // namespace

Programs TilePrograms() { return {{"matrices", LoadMatrixProgram}, {"async", CopyAsyncProgram}}; }
