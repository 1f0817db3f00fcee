#include "tests/ptxsim/graphs.h"

#include <memory>
#include <utility>

#include "tests/ptxsim/device.h"
#include "tests/ptxsim/fault.h"
#include "tests/ptxsim/runtime.h"

using ptxsim::Capture;
using ptxsim::Device;
using ptxsim::ExecutableGraph;
using ptxsim::Fault;
using ptxsim::Graph;
using ptxsim::Report;
using ptxsim::Stream;
using ptxsim::Usable;

namespace {

// Owner of a handle that the program gives back.
template <typename T>
T& Own(const std::set<std::unique_ptr<T>>& all, const void* handle, const char* what) {
  for (const auto& owned : all) {
    if (owned.get() == handle) return *owned;
  }
  Fault(what + std::string(" that does not exist"));
}

template <typename T>
T* Keep(std::set<std::unique_ptr<T>>* all, T value) {
  return all->insert(std::make_unique<T>(std::move(value))).first->get();
}

template <typename T>
void Drop(std::set<std::unique_ptr<T>>* all, const T& dead) {
  std::erase_if(*all, [&](const auto& owned) { return owned.get() == &dead; });
}

// Invalidates the captures that `concerns` names.
template <typename Concerns>
int Refuse(const Concerns& concerns) {
  int error = cudaSuccess;
  for (Stream* stream : Device::Get().streams().live()) {
    if (stream->capture == nullptr || !concerns(*stream->capture)) continue;
    stream->capture->valid = false;
    error = cudaErrorStreamCaptureUnsupported;
  }
  return error;
}

}  // namespace

int ptxsim::RefuseBesideCapture() {
  return Refuse([](const Capture& capture) {
    if (capture.relaxed) return false;
    return capture.all_threads || capture.thread == std::this_thread::get_id();
  });
}

int ptxsim::RefuseWhileAnyCaptures() {
  return Refuse([](const Capture&) { return true; });
}

extern "C" {

cudaError_t cudaStreamBeginCapture(cudaStream_t handle, cudaStreamCaptureMode mode) {
  if (const cudaError_t error = Usable()) return error;
  Stream& stream = Device::Get().streams().Get(handle);
  if (handle == nullptr) return Report(cudaErrorStreamCaptureUnsupported);
  if (stream.capture != nullptr) return Report(cudaErrorIllegalState);
  stream.capture = std::make_unique<Capture>();
  stream.capture->relaxed = mode == cudaStreamCaptureModeRelaxed;
  stream.capture->all_threads = mode == cudaStreamCaptureModeGlobal;
  stream.capture->thread = std::this_thread::get_id();
  return cudaSuccess;
}

// Ends it in any case.
cudaError_t cudaStreamEndCapture(cudaStream_t handle, cudaGraph_t* graph) {
  Stream& stream = Device::Get().streams().Get(handle);
  *graph = nullptr;
  if (stream.capture == nullptr) return Report(cudaErrorIllegalState);
  if (!stream.capture->relaxed && stream.capture->thread != std::this_thread::get_id()) {
    stream.capture->valid = false;
    return Report(cudaErrorStreamCaptureWrongThread);
  }
  const std::unique_ptr<Capture> capture = std::move(stream.capture);
  if (const cudaError_t error = Usable()) return error;
  if (!capture->valid) return Report(cudaErrorStreamCaptureInvalidated);
  *graph =
      reinterpret_cast<cudaGraph_t>(Keep(&Device::Get().graphs, Graph{std::move(capture->nodes)}));
  return cudaSuccess;
}

cudaError_t cudaGraphDestroy(cudaGraph_t handle) {
  auto& graphs = Device::Get().graphs;
  Drop(&graphs, Own(graphs, handle, "a graph"));
  return cudaSuccess;
}

cudaError_t cudaGraphInstantiate(cudaGraphExec_t* executable, cudaGraph_t handle,
                                 unsigned long long flags) {
  if (const cudaError_t error = Usable()) return error;
  if (flags != 0) Fault("cudaGraphInstantiate: flags not modelled");
  const Graph& graph = Own(Device::Get().graphs, handle, "a graph");
  if (Device::Get().InstantiationFails()) return Report(cudaErrorMemoryAllocation);
  *executable = reinterpret_cast<cudaGraphExec_t>(
      Keep(&Device::Get().executable_graphs, ExecutableGraph{graph.nodes}));
  return cudaSuccess;
}

cudaError_t cudaGraphLaunch(cudaGraphExec_t handle, cudaStream_t stream_handle) {
  if (const int error = Device::Get().LaunchError()) return Report(error);
  ExecutableGraph& graph = Own(Device::Get().executable_graphs, handle, "an executable graph");
  Stream& stream = Device::Get().streams().Get(stream_handle);
  if (stream.capture != nullptr) Fault("not modelled: a graph is launched into a capture");
  for (const auto& node : graph.nodes) {
    if (const cudaError_t error = ptxsim::Enqueue(stream_handle, node)) return error;
  }
  ++graph.pending;
  ++Device::Get().graph_launches;
  return ptxsim::Enqueue(stream_handle, [&graph] { --graph.pending; });
}

cudaError_t cudaGraphExecDestroy(cudaGraphExec_t handle) {
  auto& graphs = Device::Get().executable_graphs;
  const ExecutableGraph& dead = Own(graphs, handle, "an executable graph");
  if (dead.pending > 0) Fault("an executable graph is destroyed before it has run");
  Drop(&graphs, dead);
  return cudaSuccess;
}

// ---- for tests, tests/ptxsim/from_tests.h ----

void ptxsim_fail_instantiation(long n) { Device::Get().FailInstantiation(n); }
void ptxsim_fail_launch(long n) {
  Device::Get().FailLaunch(n);
  cudaGetLastError();  // forgets what it would tell of before
}
size_t ptxsim_graph_launches() { return Device::Get().graph_launches; }
size_t ptxsim_executable_graphs() { return Device::Get().executable_graphs.size(); }

}  // extern "C"
