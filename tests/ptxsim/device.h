// The one simulated device of the process and what the program has registered with it.
//
// Set from outside, as the program under test knows nothing of the simulator:
//   PTXSIM_SEED=n          order of blocks, warps, lanes and streams (1)
//   PTXSIM_MEMORY_MB=n     device memory (4096)
//   PTXSIM_FAIL_MALLOC=n   the n-th allocation fails
//   PTXSIM_FAIL_LAUNCH=n   the n-th launch fails, of a kernel or a graph, and every call after it
//   PTXSIM_FAIL_INSTANTIATION=n  the n-th graph cannot be made executable for lack of memory
//   PTXSIM_NO_DEVICE=1     a machine without a device
#pragma once

#include <map>
#include <memory>
#include <set>
#include <string>

#include "tests/ptxsim/graphs.h"
#include "tests/ptxsim/launch.h"
#include "tests/ptxsim/streams.h"

namespace ptxsim {

// Memory that stays taken when what was allocated from it is freed.
struct Pool {
  size_t threshold = 0;  // above it what is not used goes back at the next free
  size_t reserved = 0, used = 0;
  std::map<uint64_t, size_t> live;  // not freed by the program; the device may be behind

  bool Use(size_t bytes, DeviceMemory* memory);
  void Trim(DeviceMemory* memory);
};

struct KernelHandle {
  Kernel* kernel;
  int dynamic_shared_limit = 48 << 10;  // raised by cudaFuncSetAttribute
};

class Device {
 public:
  static Device& Get();

  bool present() const { return present_; }
  int target() const { return target_; }  // 80 = compute capability 8.0
  DeviceMemory& memory() { return memory_; }
  Streams& streams() { return streams_; }
  Random& random() { return random_; }

  // PTX of a fat binary as nvcc embeds it, without compression.
  void RegisterFatBinary(const void* wrapper);
  void RegisterKernel(const void* host_function, const std::string& name);
  KernelHandle* FindKernel(const void* host_function);

  // 0 if fine, else the CUDA error code. The launch runs when its stream is waited for.
  int EnqueueLaunch(KernelHandle& handle, std::array<unsigned, 3> grid,
                    std::array<unsigned, 3> block, void** args, size_t dynamic_shared,
                    void* stream);
  // 0 if there is not that much, or if this allocation is to fail. From a pool, if one is given.
  uint64_t Allocate(size_t bytes, Pool* pool = nullptr);
  // The n-th allocation from now on fails; 0: none.
  void FailAllocation(long n) { fail_malloc_ = n; }
  // The same of graphs that are made executable.
  void FailInstantiation(long n) { fail_instantiation_ = n; }
  bool InstantiationFails() { return fail_instantiation_ > 0 && --fail_instantiation_ == 0; }
  // The same of launches; the device is well again until then.
  void FailLaunch(long n);
  // To be asked once for each launch of a kernel or a graph: 0, or the CUDA error code.
  int LaunchError();
  int sticky_error() const { return sticky_error_; }

  std::map<uint64_t, size_t> pinned;  // host allocations: address -> bytes
  bool IsPinned(const void* address, size_t bytes) const;
  std::set<Event*> events;
  std::set<std::unique_ptr<Pool>> pools;
  std::set<std::unique_ptr<Graph>> graphs;
  std::set<std::unique_ptr<ExecutableGraph>> executable_graphs;
  size_t graph_launches = 0;  // so far
  // A fault for what the program left behind; at the end of the process.
  void CheckEnd();

 private:
  Device();

  bool present_;
  int target_ = 80;
  int sticky_error_ = 0;
  long fail_malloc_, fail_launch_, fail_instantiation_;
  Random random_;
  DeviceMemory memory_;
  Streams streams_;
  std::vector<std::unique_ptr<Module>> modules_;
  std::map<std::string, Kernel*> kernels_;
  std::map<const void*, KernelHandle> handles_;
};

}  // namespace ptxsim
