// What a test may ask of the simulated device that is preloaded under it.
#pragma once

#include <dlfcn.h>

#include <cstddef>

namespace ptxsim {

// A function of the simulator; null where there is none.
template <typename Function>
Function* Hook(const char* name) {
  return reinterpret_cast<Function*>(dlsym(RTLD_DEFAULT, name));
}

// The n-th allocation of device memory from now on fails; 0: none does.
inline auto* FailAllocation() { return Hook<void(long n)>("ptxsim_fail_allocation"); }
// Allocations of device memory that have not been freed.
inline auto* LiveAllocations() { return Hook<size_t()>("ptxsim_live_allocations"); }

}  // namespace ptxsim
