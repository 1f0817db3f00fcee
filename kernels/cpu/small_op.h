// Sharing out cheap row-wise work.
#pragma once

#include <cstdint>

#include "kernels/cpu/thread_pool.h"

namespace skim {

// Waking the other threads costs a few microseconds: the time of this many elements.
inline constexpr int64_t kSmallOpElements = 8192;

// Calls body(begin, end) for parts of [0, items), on the calling thread alone where the
// work is too small to share.
template <typename Body>
void SplitUnlessSmall(ThreadPool& pool, int64_t items, int64_t elements_per_item,
                      const Body& body) {
  if (items * elements_per_item <= kSmallOpElements) {
    if (items > 0) body(int64_t{0}, items);
  } else {
    pool.Split(items, 1, body);
  }
}

}  // namespace skim
