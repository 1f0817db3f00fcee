// Makes the Ops of a backend. The only place that knows which backends exist.
#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "kernels/device_memory.h"
#include "kernels/ops.h"

namespace skim {

struct BackendOptions {
  std::string backend = "cpu";      // "cpu" | "cuda"
  std::string isa = "auto";         // cpu: auto | amx | avx512 | avx2 | plain
  int threads = 0;                  // cpu: 0 = one per physical core
  bool pin_threads = true;          // cpu: each thread to its own core
  DeviceMemory device_memory = {};  // cuda
  std::string cuda_gemm = "own";    // cuda: own | cublaslt, which gives up G1 in bf16 and fp8
  bool cuda_graphs = true;          // cuda: steps that repeat are replayed as graphs
};

// INVALID_ARGUMENT for an unknown name; FAILED_PRECONDITION where this machine or build
// lacks what was asked for; RESOURCE_EXHAUSTED where a device has not the memory.
absl::StatusOr<std::unique_ptr<Ops>> MakeOps(const BackendOptions& options);

}  // namespace skim
