#include "kernels/cuda/launch_queue.h"

#include <cuda_runtime_api.h>

#include <algorithm>
#include <utility>

namespace skim::cuda {

void LaunchQueue::Begin(const void* function, const dim3& grid, int threads, size_t shared) {
  held_.launches.push_back(
      {function, {grid.x, grid.y, grid.z}, threads, shared, held_.arguments.size()});
}

void LaunchQueue::End() {
  if (holding_) return;
  const char* what = nullptr;
  LaunchKernels(held_, &what);
  held_.Clear();
}

int LaunchQueue::LaunchKernels(List& list, const char** what) {
  pointers_.clear();
  for (const size_t at : list.arguments) pointers_.push_back(list.bytes.data() + at);
  for (size_t i = 0; i < list.launches.size(); ++i) {
    const Kernel& kernel = list.launches[i];
    const auto& [x, y, z] = kernel.grid;
    const cudaError_t error = cudaLaunchKernel(
        kernel.function, dim3(x, y, z), dim3(static_cast<unsigned>(kernel.threads)),
        pointers_.data() + kernel.first_argument, kernel.shared, stream_);
    if (error == cudaSuccess) continue;
    *what = i < list.names.size() ? list.names[i] : "a kernel";
    return error;
  }
  return cudaSuccess;
}

CUgraphExec_st* LaunchQueue::MakeGraph(List& list) {
  if (cudaStreamBeginCapture(stream_, cudaStreamCaptureModeThreadLocal) != cudaSuccess) {
    cudaGetLastError();
    return nullptr;
  }
  const char* what = nullptr;
  const bool launched = LaunchKernels(list, &what) == cudaSuccess;
  // Whatever became of it: nothing else can be done with the stream before.
  cudaGraph_t graph = nullptr;
  const bool captured = cudaStreamEndCapture(stream_, &graph) == cudaSuccess && launched;
  cudaGraphExec_t executable = nullptr;
  const bool made = captured && cudaGraphInstantiate(&executable, graph, 0) == cudaSuccess;
  if (graph != nullptr) cudaGraphDestroy(graph);
  if (!made) cudaGetLastError();  // its launches will tell, if there is anything to tell
  return made ? executable : nullptr;
}

int LaunchQueue::Launch(const char** what) {
  if (held_.launches.empty()) return cudaSuccess;
  const auto known = std::ranges::find_if(
      known_, [&](const Known& other) { return other.list.SameLaunches(held_); });
  if (known == known_.end()) {
    const int error = LaunchKernels(held_, what);
    known_.push_front({std::exchange(held_, {})});
    return error;
  }
  held_.Clear();
  known_.splice(known_.begin(), known_, known);
  if (known->graph == nullptr && !known->given_up) {
    known->graph = MakeGraph(known->list);
    known->given_up = known->graph == nullptr;
  }
  if (known->graph == nullptr) return LaunchKernels(known->list, what);
  ++graph_launches_;
  *what = "a graph of a step's kernels";
  return cudaGraphLaunch(known->graph, stream_);
}

void LaunchQueue::EndStep() {
  holding_ = false;
  held_.Clear();
  Forget(kMostLists);
}

void LaunchQueue::Clear() {
  holding_ = false;
  held_.Clear();
  Forget(0);
}

void LaunchQueue::Forget(size_t most) {
  for (; known_.size() > most; known_.pop_back()) {
    if (known_.back().graph != nullptr) cudaGraphExecDestroy(known_.back().graph);
  }
}

}  // namespace skim::cuda
