// What a test may ask of the simulated device, and of what stands in for cuBLASLt, that are
// preloaded under it.
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
// Products that cuBLASLt has been asked for.
inline auto* Products() { return Hook<size_t()>("ptxsim_products"); }

}  // namespace ptxsim
