// Gives fresh memory its pages ahead of use. The kernel zeroes a page when it is first touched,
// and a virtual machine's host may have to find it first: that took 8 % of the prefill time until
// a KV pool had been used once.
#pragma once

#include <cstddef>
#include <thread>

namespace skim {

// At most this much is taken ahead of use: a pool may be far larger than what is ever used of it.
inline constexpr size_t kPopulateBytes = size_t{1} << 30;

// Populates the first kPopulateBytes of whole pages in [data, data + size) at the lowest priority,
// without changing what is in them. Where the kernel cannot (Linux before 5.14), nothing happens.
// The memory must outlive the thread, which ends early when asked to stop.
std::jthread PopulateInBackground(std::byte* data, size_t size);

}  // namespace skim
