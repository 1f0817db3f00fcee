// The one simulated device of the process and what the program has registered with it.
//
// Set from outside, as the program under test knows nothing of the simulator:
//   PTXSIM_SEED=n          order of blocks, warps, lanes and streams (1)
//   PTXSIM_MEMORY_MB=n     device memory (4096)
//   PTXSIM_FAIL_MALLOC=n   the n-th allocation fails
//   PTXSIM_FAIL_LAUNCH=n   the n-th launch fails, and every call after it
//   PTXSIM_NO_DEVICE=1     a machine without a device
#pragma once

#include <map>
#include <memory>
#include <set>
#include <string>

#include "tests/ptxsim/launch.h"
#include "tests/ptxsim/streams.h"

namespace ptxsim {

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
  uint64_t Allocate(size_t bytes);
  int sticky_error() const { return sticky_error_; }

  std::set<void*> pinned;  // host allocations
  std::set<Event*> events;
  // A fault for what the program left behind; at the end of the process.
  void CheckEnd();

 private:
  Device();

  bool present_;
  int target_ = 80;
  int sticky_error_ = 0;
  long fail_malloc_, fail_launch_;
  Random random_;
  DeviceMemory memory_;
  Streams streams_;
  std::vector<std::unique_ptr<Module>> modules_;
  std::map<std::string, Kernel*> kernels_;
  std::map<const void*, KernelHandle> handles_;
};

}  // namespace ptxsim
