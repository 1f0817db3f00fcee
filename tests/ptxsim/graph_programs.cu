// Programs that capture streams and launch what they captured: some right, and some that break one
// rule each.
#include <functional>
#include <thread>

#include "tests/ptxsim/programs.h"

namespace {

constexpr int kThreads = 64;
constexpr size_t kBytes = kThreads * sizeof(int);

__global__ void Add(int* x, int by) { x[threadIdx.x] += by; }

// A stream, memory on both sides of the bus and a pool; all is given back unless a program spoils
// that.
struct Scene {
  cudaStream_t stream = nullptr;
  cudaMemPool_t pool = nullptr;
  int *device = nullptr, *pinned = nullptr;
  cudaGraph_t graph = nullptr;
  cudaGraphExec_t executable = nullptr;

  int Make(unsigned flags = cudaStreamNonBlocking) {
    cudaMemPoolProps properties = {};
    properties.allocType = cudaMemAllocationTypePinned;
    properties.location = {cudaMemLocationTypeDevice, 0};
    MUST(cudaStreamCreateWithFlags(&stream, flags));
    MUST(cudaMemPoolCreate(&pool, &properties));
    MUST(cudaMallocFromPoolAsync(reinterpret_cast<void**>(&device), kBytes, pool, stream));
    MUST(cudaMallocHost(reinterpret_cast<void**>(&pinned), kBytes));
    MUST(cudaMemsetAsync(device, 0, kBytes, stream));
    MUST(cudaStreamSynchronize(stream));
    return 0;
  }
  int Begin(cudaStreamCaptureMode mode = cudaStreamCaptureModeThreadLocal) {
    MUST(cudaStreamBeginCapture(stream, mode));
    return 0;
  }
  int End() {
    MUST(cudaStreamEndCapture(stream, &graph));
    MUST(cudaGraphInstantiate(&executable, graph, 0));
    MUST(cudaGraphDestroy(graph));
    return 0;
  }
  // A graph of one kernel.
  int CaptureAdd(int blocks_threads = kThreads) {
    if (Begin() != 0) return 1;
    Add<<<1, blocks_threads, 0, stream>>>(device, 1);
    MUST(cudaGetLastError());
    return End();
  }
  int Free() {
    MUST(cudaFreeAsync(device, stream));
    MUST(cudaStreamSynchronize(stream));
    MUST(cudaMemPoolDestroy(pool));
    MUST(cudaFreeHost(pinned));
    MUST(cudaStreamDestroy(stream));
    return 0;
  }
};

int GraphProgram() {
  Scene s;
  EXPECT(s.Make() == 0 && s.Begin() == 0);
  int by = 2;
  MUST(cudaMemcpyAsync(s.device, s.pinned, kBytes, cudaMemcpyHostToDevice, s.stream));
  Add<<<1, kThreads, 0, s.stream>>>(s.device, by);
  by = 5;  // arguments are copied
  Add<<<1, kThreads / 2, 0, s.stream>>>(s.device, by);
  by = 0;
  MUST(cudaMemsetAsync(s.device, 0, sizeof(int), s.stream));
  MUST(cudaMemcpyAsync(s.pinned, s.device, kBytes, cudaMemcpyDeviceToHost, s.stream));
  for (int i = 0; i < kThreads; ++i) s.pinned[i] = -1;
  EXPECT(s.End() == 0);
  MUST(cudaStreamSynchronize(s.stream));
  for (int i = 0; i < kThreads; ++i) EXPECT(s.pinned[i] == -1);  // nothing has run
  for (const int first : {100, 200}) {
    for (int i = 0; i < kThreads; ++i) s.pinned[i] = first + i;  // memory is read when it runs
    // Behind a launch of the same graph and before another kernel.
    MUST(cudaGraphLaunch(s.executable, s.stream));
    MUST(cudaGraphLaunch(s.executable, s.stream));
    Add<<<1, kThreads, 0, s.stream>>>(s.device, 1);
    MUST(cudaStreamSynchronize(s.stream));
    EXPECT(s.pinned[0] == 0);
    for (int i = 1; i < kThreads; ++i) {
      EXPECT(s.pinned[i] == first + i + 2 * (i < kThreads / 2 ? 7 : 2));
    }
    MUST(cudaMemcpyAsync(s.pinned, s.device, kBytes, cudaMemcpyDeviceToHost, s.stream));
    MUST(cudaStreamSynchronize(s.stream));
    EXPECT(s.pinned[0] == 1 && s.pinned[40] == first + 40 + 5);
  }
  MUST(cudaGraphExecDestroy(s.executable));
  return s.Free();
}

// What may not be called while a stream captures, and what becomes of the capture.
int BrokenCaptures() {
  static int pageable[kThreads];
  for (const auto mode : {cudaStreamCaptureModeGlobal, cudaStreamCaptureModeThreadLocal}) {
    Scene s;
    EXPECT(s.Make() == 0);
    void* none = nullptr;
    const std::function<cudaError_t()> calls[] = {
        [&] { return cudaStreamSynchronize(s.stream); },
        [&] { return cudaDeviceSynchronize(); },
        [&] { return cudaMalloc(&none, kBytes); },
        [&] { return cudaMallocHost(&none, kBytes); },
        [&] { return cudaFreeHost(s.pinned); },
        [&] { return cudaMemcpy(s.device, pageable, kBytes, cudaMemcpyHostToDevice); },
        [&] { return cudaMemset(s.device, 0, kBytes); },
        [&] {
          return cudaMemcpyAsync(s.device, pageable, kBytes, cudaMemcpyHostToDevice, s.stream);
        }};
    for (const auto& call : calls) {
      EXPECT(s.Begin(mode) == 0);
      Add<<<1, kThreads, 0, s.stream>>>(s.device, 1);
      MUST(cudaGetLastError());
      EXPECT(call() == cudaErrorStreamCaptureUnsupported && none == nullptr);
      EXPECT(cudaGetLastError() == cudaErrorStreamCaptureUnsupported);
      Add<<<1, kThreads, 0, s.stream>>>(s.device, 1);
      EXPECT(cudaGetLastError() == cudaErrorStreamCaptureInvalidated);
      EXPECT(cudaStreamEndCapture(s.stream, &s.graph) == cudaErrorStreamCaptureInvalidated);
      EXPECT(s.graph == nullptr);
      EXPECT(cudaGetLastError() == cudaErrorStreamCaptureInvalidated);
      MUST(cudaStreamSynchronize(s.stream));  // as before it
    }
    EXPECT(s.Begin() == 0);
    EXPECT(cudaStreamBeginCapture(s.stream, mode) == cudaErrorIllegalState);
    MUST(cudaStreamEndCapture(s.stream, &s.graph));
    MUST(cudaGraphDestroy(s.graph));
    EXPECT(cudaStreamEndCapture(s.stream, &s.graph) == cudaErrorIllegalState);
    EXPECT(cudaStreamBeginCapture(nullptr, mode) == cudaErrorStreamCaptureUnsupported);
    EXPECT(cudaGetLastError() == cudaErrorStreamCaptureUnsupported);
    MUST(cudaMemcpyAsync(s.pinned, s.device, kBytes, cudaMemcpyDeviceToHost, s.stream));
    MUST(cudaStreamSynchronize(s.stream));
    EXPECT(s.pinned[0] == 0);
    EXPECT(s.Free() == 0);
  }
  // The default stream would have to wait for a stream that was made to wait for it.
  Scene s;
  EXPECT(s.Make(cudaStreamDefault) == 0 && s.Begin() == 0);
  Add<<<1, kThreads>>>(s.device, 1);
  EXPECT(cudaGetLastError() == cudaErrorStreamCaptureImplicit);
  EXPECT(cudaStreamEndCapture(s.stream, &s.graph) == cudaErrorStreamCaptureInvalidated);
  return s.Free();
}

// Allocates beside a capture, from another thread or this one.
cudaError_t Allocate(bool elsewhere) {
  void* memory = nullptr;
  cudaError_t error = cudaSuccess;
  const auto allocate = [&] {
    error = cudaMalloc(&memory, kBytes);
    if (error == cudaSuccess) error = cudaFree(memory);
  };
  if (elsewhere) {
    std::thread(allocate).join();
  } else {
    allocate();
  }
  return error;
}

int CapturesInThreads() {
  struct Case {
    cudaStreamCaptureMode mode;
    bool elsewhere, allowed;
  };
  for (const Case& c : {Case{cudaStreamCaptureModeGlobal, true, false},
                        Case{cudaStreamCaptureModeThreadLocal, true, true},
                        Case{cudaStreamCaptureModeThreadLocal, false, false},
                        Case{cudaStreamCaptureModeRelaxed, false, true}}) {
    Scene s;
    EXPECT(s.Make() == 0 && s.Begin(c.mode) == 0);
    EXPECT((Allocate(c.elsewhere) == cudaSuccess) == c.allowed);
    EXPECT((cudaStreamEndCapture(s.stream, &s.graph) == cudaSuccess) == c.allowed);
    if (c.allowed) MUST(cudaGraphDestroy(s.graph));
    EXPECT(s.Free() == 0);
  }
  return 0;
}

// ---- canaries ----

int NobodyWaits() {
  Scene s;
  EXPECT(s.Make() == 0 && s.CaptureAdd() == 0);
  MUST(cudaGraphLaunch(s.executable, s.stream));
  return 0;
}

// A graph holds addresses, not memory.
int UseAfterFree() {
  Scene s;
  EXPECT(s.Make() == 0 && s.CaptureAdd() == 0);
  MUST(cudaGraphLaunch(s.executable, s.stream));
  MUST(cudaFreeAsync(s.device, s.stream));
  MUST(cudaGraphLaunch(s.executable, s.stream));
  MUST(cudaStreamSynchronize(s.stream));
  return 0;
}

int CopiesFreedHostMemory() {
  Scene s;
  EXPECT(s.Make() == 0 && s.Begin() == 0);
  MUST(cudaMemcpyAsync(s.device, s.pinned, kBytes, cudaMemcpyHostToDevice, s.stream));
  EXPECT(s.End() == 0);
  MUST(cudaFreeHost(s.pinned));
  MUST(cudaGraphLaunch(s.executable, s.stream));
  MUST(cudaStreamSynchronize(s.stream));
  return 0;
}

int OutOfBounds() {
  Scene s;
  EXPECT(s.Make() == 0 && s.CaptureAdd(kThreads + 1) == 0);
  MUST(cudaGraphLaunch(s.executable, s.stream));
  MUST(cudaStreamSynchronize(s.stream));
  return 0;
}

int DestroyedTooEarly() {
  Scene s;
  EXPECT(s.Make() == 0 && s.CaptureAdd() == 0);
  MUST(cudaGraphLaunch(s.executable, s.stream));
  MUST(cudaGraphExecDestroy(s.executable));
  return s.Free();
}

int DestroyedTwice() {
  Scene s;
  EXPECT(s.Make() == 0 && s.CaptureAdd() == 0);
  MUST(cudaGraphExecDestroy(s.executable));
  MUST(cudaGraphExecDestroy(s.executable));
  return s.Free();
}

int Leak() {
  Scene s;
  EXPECT(s.Make() == 0 && s.Begin() == 0);
  MUST(cudaStreamEndCapture(s.stream, &s.graph));
  return s.Free();
}

int ExecutableLeak() {
  Scene s;
  EXPECT(s.Make() == 0 && s.CaptureAdd() == 0);
  return s.Free();
}

int NeverEnds() {
  Scene s;
  EXPECT(s.Make() == 0 && s.Begin() == 0);
  return 0;
}

int DestroyedStream() {
  Scene s;
  EXPECT(s.Make() == 0 && s.Begin() == 0);
  MUST(cudaStreamDestroy(s.stream));
  return 0;
}

int Allocates() {
  Scene s;
  EXPECT(s.Make() == 0 && s.Begin() == 0);
  MUST(cudaMallocFromPoolAsync(reinterpret_cast<void**>(&s.device), kBytes, s.pool, s.stream));
  return 0;
}

int Frees() {
  Scene s;
  EXPECT(s.Make() == 0 && s.Begin() == 0);
  MUST(cudaFreeAsync(s.device, s.stream));
  return 0;
}

int RecordsAnEvent() {
  Scene s;
  cudaEvent_t event;
  MUST(cudaEventCreateWithFlags(&event, cudaEventDisableTiming));
  EXPECT(s.Make() == 0 && s.Begin() == 0);
  MUST(cudaEventRecord(event, s.stream));
  return 0;
}

}  // namespace

Programs GraphPrograms() {
  return {{"graphs", GraphProgram},
          {"broken_captures", BrokenCaptures},
          {"captures_in_threads", CapturesInThreads},
          {"graph-nobody-waits", NobodyWaits},
          {"graph-use-after-free", UseAfterFree},
          {"graph-copies-freed-host-memory", CopiesFreedHostMemory},
          {"graph-out-of-bounds", OutOfBounds},
          {"graph-destroyed-too-early", DestroyedTooEarly},
          {"graph-destroyed-twice", DestroyedTwice},
          {"graph-leak", Leak},
          {"graph-executable-leak", ExecutableLeak},
          {"capture-never-ends", NeverEnds},
          {"capture-of-a-destroyed-stream", DestroyedStream},
          {"capture-allocates", Allocates},
          {"capture-frees", Frees},
          {"capture-records-an-event", RecordsAnEvent}};
}
