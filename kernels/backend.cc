#include "kernels/backend.h"

#include <string>

#include "base/status_macros.h"
#include "kernels/cpu/cores.h"
#include "kernels/cpu/cpu_ops.h"
#include "kernels/cpu/isa.h"
#ifdef SKIM_CUDA
#include "kernels/cuda/cuda_ops.h"
#endif

namespace skim {
namespace {

// More than any machine has; a typo should not start a million threads.
constexpr int kMaxThreads = 1024;

}  // namespace

absl::StatusOr<std::unique_ptr<Ops>> MakeOps(const BackendOptions& options) {
  if (options.cuda_gemm != "own" && options.cuda_gemm != "cublaslt") {
    return absl::InvalidArgumentError("cuda_gemm: must be own or cublaslt, not '" +
                                      options.cuda_gemm + "'");
  }
  if (options.backend == "cuda") {
#ifdef SKIM_CUDA
    return cuda::CudaOps::Create(options.device_memory, options.cuda_gemm == "cublaslt",
                                 options.cuda_graphs);
#else
    return absl::FailedPreconditionError("backend: this build has no CUDA backend");
#endif
  }
  if (options.backend != "cpu") {
    return absl::InvalidArgumentError("backend: must be cpu or cuda, not '" + options.backend +
                                      "'");
  }
  if (options.threads < 0 || options.threads > kMaxThreads) {
    return absl::InvalidArgumentError("threads: must be 0 (one per core) to " +
                                      std::to_string(kMaxThreads) + ", not " +
                                      std::to_string(options.threads));
  }
  SKIM_ASSIGN_OR_RETURN(const Isa isa, ChooseIsa(options.isa));
  const int threads =
      options.threads > 0 ? options.threads : static_cast<int>(PhysicalCores().size());
  return std::make_unique<CpuOps>(isa, threads, options.pin_threads);
}

}  // namespace skim
