#include "kernels/cpu/populate.h"

#include <pthread.h>
#include <sched.h>
#include <sys/mman.h>

#include <algorithm>
#include <cstdint>

namespace skim {
namespace {

constexpr size_t kStepBytes = size_t{8} << 20;  // a stop is noticed between two steps
#ifdef MADV_POPULATE_WRITE
constexpr int kPopulate = MADV_POPULATE_WRITE;
#else
constexpr int kPopulate = 23;  // known to kernels before it is known to C libraries
#endif

}  // namespace

std::jthread PopulateInBackground(std::byte* data, size_t size) {
  return std::jthread([data, size](const std::stop_token& stop) {
    pthread_setname_np(pthread_self(), "populate");
    const sched_param parameters = {};
    sched_setscheduler(0, SCHED_IDLE, &parameters);
    const size_t end = std::min(size, kPopulateBytes);
    for (size_t at = 0; at < end && !stop.stop_requested(); at += kStepBytes) {
      if (madvise(data + at, std::min(kStepBytes, end - at), kPopulate) != 0) return;
    }
  });
}

}  // namespace skim
