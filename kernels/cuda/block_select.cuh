// The best of n items without a sort, by all kSampleThreads threads of a block.
#pragma once

#include "kernels/cuda/block_reduce.cuh"

namespace skim::cuda {

using Mass = unsigned long long;

// Unsigned numbers in the order of the floats; -0 and +0 are one.
__device__ inline uint32_t OrderOf(float x) {
  const uint32_t bits = __float_as_uint(x + 0.0f);
  return bits >> 31 ? ~bits : bits | 0x80000000u;
}

// The last item taken: every item of a higher order is, and of its own those up to `index`.
struct Cutoff {
  uint32_t order = 0;
  int32_t index = INT32_MAX;

  __device__ bool Takes(uint32_t own, int32_t at) const {
    return own > order || (own == order && at <= index);
  }
};

inline constexpr int kDigitBins = 256;
static_assert(kDigitBins == kSampleThreads);

struct SelectScratch {
  Mass bins[kDigitBins];
  Mass before;  // what lies above the chosen bin
  int32_t digit;
};

// A thread's share of n items: consecutive ones.
struct Share {
  int32_t begin, end;

  __device__ explicit Share(int32_t n) {
    const int32_t size = (n + kSampleThreads - 1) / kSampleThreads;
    begin = min(static_cast<int32_t>(threadIdx.x) * size, n);
    end = min(begin + size, n);
  }
};

// Takes items in descending order, of equal ones the lower index first, until their values reach
// `target`, which is at least 1 and at most all. Radix selection, 8 bits of the order at a time;
// integers, so no sum depends on who adds first. order(i): uint32_t, value(i): Mass, 0 for an
// item that does not take part; items of one order have one value.
template <typename Order, typename Value>
__device__ Cutoff BlockSelect(int32_t n, Mass target, const Order& order, const Value& value,
                              BlockScratch& block, SelectScratch& select) {
  uint32_t found = 0, known = 0;  // digits of the order, and which bits they are
  Mass before = 0;
  for (int shift = 24; shift >= 0; shift -= 8) {
    select.bins[threadIdx.x] = 0;
    __syncthreads();
    for (int32_t i = threadIdx.x; i < n; i += kSampleThreads) {
      const uint32_t own = order(i);
      if ((own & known) != found) continue;
      const Mass mass = value(i);
      if (mass > 0) atomicAdd(&select.bins[own >> shift & 255], mass);
    }
    __syncthreads();
    if (threadIdx.x == 0) {
      int digit = kDigitBins - 1;
      while (digit > 0 && before + select.bins[digit] < target) before += select.bins[digit--];
      select.digit = digit;
      select.before = before;
    }
    __syncthreads();
    before = select.before;
    found |= static_cast<uint32_t>(select.digit) << shift;
    known |= 255u << shift;
  }
  // Of the last order, the first items that reach what is missing.
  const Mass missing = target - before;
  const Share share(n);
  Mass mine = 0;
  for (int32_t i = share.begin; i < share.end; ++i) {
    if (order(i) == found) mine += value(i);
  }
  Mass total;
  Mass sum = BlockPrefix(mine, block, &total);
  if (sum < missing && missing <= sum + mine) {
    for (int32_t i = share.begin; i < share.end; ++i) {
      if (order(i) != found) continue;
      sum += value(i);
      if (sum >= missing) {
        select.digit = i;
        break;
      }
    }
  }
  __syncthreads();
  return {found, select.digit};
}

}  // namespace skim::cuda
