// What the entry points of the simulated CUDA runtime have in common.
#pragma once

#include <cuda_runtime_api.h>

#include <functional>

namespace ptxsim {

// The error as the program gets it, and as cudaGetLastError tells it.
cudaError_t Report(int error);
// Every call fails on a machine without a device or after a sticky error.
cudaError_t Usable();
// Behind what the stream has already, or into what it captures.
cudaError_t Enqueue(cudaStream_t stream, std::function<void()> run);
// A fault if it does.
void NotInACapture(cudaStream_t stream, const char* what);

}  // namespace ptxsim
