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
// The same of launches, of kernels and graphs: every call after it fails until this is called again.
inline auto* FailLaunch() { return Hook<void(long n)>("ptxsim_fail_launch"); }
// The n-th graph from now on cannot be made executable for lack of memory.
inline auto* FailInstantiation() { return Hook<void(long n)>("ptxsim_fail_instantiation"); }
// Launches of graphs so far, and graphs that could be launched.
inline auto* GraphLaunches() { return Hook<size_t()>("ptxsim_graph_launches"); }
inline auto* ExecutableGraphs() { return Hook<size_t()>("ptxsim_executable_graphs"); }
// Allocations of device memory that have not been freed.
inline auto* LiveAllocations() { return Hook<size_t()>("ptxsim_live_allocations"); }
// Products that cuBLASLt has been asked for.
inline auto* Products() { return Hook<size_t()>("ptxsim_products"); }

}  // namespace ptxsim
