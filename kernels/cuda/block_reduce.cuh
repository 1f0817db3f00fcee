// Reductions and scans over the kSampleThreads threads of a block. Every thread must call
// them; their scratch can be used again at once.
#pragma once

#include <cstdint>

#include "base/types.h"
#include "kernels/cuda/device_util.cuh"

namespace skim::cuda {

inline constexpr int kSampleThreads = 256;

// A candidate for "the highest"; ties go to the lower token.
struct Best {
  float logit;
  TokenId token;

  __device__ static Best None() { return {-__builtin_inff(), kNoToken}; }
  __device__ bool Beats(const Best& other) const {
    if (token == kNoToken || other.token == kNoToken) return other.token == kNoToken;
    return logit != other.logit ? logit > other.logit : token < other.token;
  }
};

struct BlockScratch {
  Best best[kSampleThreads / kWarp];
  unsigned long long sums[kSampleThreads];
  unsigned long long total;
};

__device__ inline Best BlockBest(Best mine, BlockScratch& scratch) {
  for (int step = kWarp / 2; step > 0; step /= 2) {
    const Best other = {__shfl_xor_sync(kAllLanes, mine.logit, step),
                        __shfl_xor_sync(kAllLanes, mine.token, step)};
    if (!mine.Beats(other)) mine = other;
  }
  __syncthreads();
  if (threadIdx.x % kWarp == 0) scratch.best[threadIdx.x / kWarp] = mine;
  __syncthreads();
  mine = scratch.best[0];
  for (int w = 1; w < kSampleThreads / kWarp; ++w) {
    if (!mine.Beats(scratch.best[w])) mine = scratch.best[w];
  }
  return mine;
}

// The sum of what threads before this one gave; the sum of all in *total.
__device__ inline unsigned long long BlockPrefix(unsigned long long mine, BlockScratch& scratch,
                                                 unsigned long long* total) {
  scratch.sums[threadIdx.x] = mine;  // the last call left this one to this thread
  __syncthreads();
  if (threadIdx.x == 0) {
    unsigned long long sum = 0;
    for (unsigned long long& entry : scratch.sums) {
      const unsigned long long value = entry;
      entry = sum;
      sum += value;
    }
    scratch.total = sum;
  }
  __syncthreads();
  *total = scratch.total;
  return scratch.sums[threadIdx.x];
}

__device__ inline bool BlockAny(bool mine) { return __syncthreads_or(mine) != 0; }

}  // namespace skim::cuda
