// The CUDA runtime's entry points that nvcc-built programs and kernels/cuda use, on the
// simulated device. Preloaded, they take the place of libcudart's; what is missing here
// falls through to the real library, which finds no driver and says so.
#include "tests/ptxsim/runtime.h"

#include <cuda_runtime_api.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <cstring>

#include "tests/ptxsim/device.h"
#include "tests/ptxsim/fault.h"

using ptxsim::Device;
using ptxsim::Event;
using ptxsim::Fault;
using ptxsim::KernelHandle;
using ptxsim::Stream;

using ptxsim::Enqueue;
using ptxsim::NotInACapture;
using ptxsim::Report;
using ptxsim::Usable;

namespace {

cudaError_t last_error = cudaSuccess;

struct Configuration {
  dim3 grid, block;
  size_t shared;
  cudaStream_t stream;
};
thread_local Configuration configuration;

// Either side may be device memory; the simulator touches it through its alias.
uint8_t* Resolve(const void* address, size_t bytes, const char* what) {
  auto& memory = Device::Get().memory();
  const auto value = reinterpret_cast<uint64_t>(address);
  if (memory.Contains(value)) return memory.At(value, bytes, 1, what);
  return static_cast<uint8_t*>(const_cast<void*>(address));
}

void Copy(void* to, const void* from, size_t bytes, cudaMemcpyKind kind) {
  if (bytes == 0) return;
  auto& memory = Device::Get().memory();
  const bool to_device = memory.Contains(reinterpret_cast<uint64_t>(to));
  const bool from_device = memory.Contains(reinterpret_cast<uint64_t>(from));
  if (kind != cudaMemcpyDefault &&
      (to_device != (kind == cudaMemcpyHostToDevice || kind == cudaMemcpyDeviceToDevice) ||
       from_device != (kind == cudaMemcpyDeviceToHost || kind == cudaMemcpyDeviceToDevice))) {
    Fault("cudaMemcpy: the kind does not fit the addresses");
  }
  std::memmove(Resolve(to, bytes, "cudaMemcpy to"), Resolve(from, bytes, "cudaMemcpy from"), bytes);
}

cudaError_t UsableBesideCapture() {
  if (const cudaError_t error = Usable()) return error;
  return Report(ptxsim::RefuseBesideCapture());
}

// Runs after the program's own statics are gone: handlers of libraries come last.
struct EndCheck {
  ~EndCheck() {
    if (Device::Get().present()) Device::Get().CheckEnd();
  }
} end_check;

}  // namespace

cudaError_t ptxsim::Report(int error) {
  if (error != cudaSuccess) last_error = static_cast<cudaError_t>(error);
  return static_cast<cudaError_t>(error);
}

cudaError_t ptxsim::Usable() {
  if (!Device::Get().present()) return Report(cudaErrorNoDevice);
  return Report(Device::Get().sticky_error());
}

cudaError_t ptxsim::Enqueue(cudaStream_t handle, std::function<void()> run) {
  auto& streams = Device::Get().streams();
  Stream& stream = streams.Get(handle);
  if (stream.capture != nullptr) {
    if (!stream.capture->valid) return Report(cudaErrorStreamCaptureInvalidated);
    stream.capture->nodes.push_back(std::move(run));
    return cudaSuccess;
  }
  if (handle == nullptr) {
    // It would have to wait for what is not running.
    bool implied = false;
    for (Stream* other : streams.live()) {
      if (other->capture == nullptr || !other->waits_for_default) continue;
      other->capture->valid = false;
      implied = true;
    }
    if (implied) return Report(cudaErrorStreamCaptureImplicit);
  }
  stream.queue.push_back({nullptr, std::move(run)});
  return cudaSuccess;
}

void ptxsim::NotInACapture(cudaStream_t stream, const char* what) {
  if (Device::Get().streams().Get(stream).capture == nullptr) return;
  Fault(std::string("not modelled: ") + what + " in a capture");
}

extern "C" {

// ---- what nvcc's host code calls ----

void** __cudaRegisterFatBinary(void* wrapper) {
  Device::Get().RegisterFatBinary(wrapper);
  static void* handle = nullptr;
  return &handle;
}
void __cudaRegisterFatBinaryEnd(void**) {}
void __cudaUnregisterFatBinary(void**) {}
char __cudaInitModule(void**) { return 1; }

void __cudaRegisterFunction(void**, const char* host_function, char*, const char* name, int, uint3*,
                            uint3*, dim3*, dim3*, int*) {
  Device::Get().RegisterKernel(host_function, name);
}

unsigned __cudaPushCallConfiguration(dim3 grid, dim3 block, size_t shared, cudaStream_t stream) {
  configuration = {grid, block, shared, stream};
  return 0;
}

cudaError_t __cudaPopCallConfiguration(dim3* grid, dim3* block, size_t* shared, void* stream) {
  *grid = configuration.grid;
  *block = configuration.block;
  *shared = configuration.shared;
  *static_cast<cudaStream_t*>(stream) = configuration.stream;
  return cudaSuccess;
}

cudaError_t __cudaGetKernel(cudaKernel_t* kernel, const void* host_function) {
  *kernel = reinterpret_cast<cudaKernel_t>(Device::Get().FindKernel(host_function));
  return *kernel == nullptr ? cudaErrorInvalidDeviceFunction : cudaSuccess;
}

cudaError_t __cudaLaunchKernel(cudaKernel_t kernel, dim3 grid, dim3 block, void** args,
                               size_t shared, cudaStream_t stream) {
  if (const cudaError_t error = Usable()) return error;
  return Report(Device::Get().EnqueueLaunch(*reinterpret_cast<KernelHandle*>(kernel),
                                            {grid.x, grid.y, grid.z}, {block.x, block.y, block.z},
                                            args, shared, stream));
}

cudaError_t cudaLaunchKernel(const void* host_function, dim3 grid, dim3 block, void** args,
                             size_t shared, cudaStream_t stream) {
  KernelHandle* kernel = Device::Get().FindKernel(host_function);
  if (kernel == nullptr) return Report(cudaErrorInvalidDeviceFunction);
  return __cudaLaunchKernel(reinterpret_cast<cudaKernel_t>(kernel), grid, block, args, shared,
                            stream);
}

cudaError_t cudaFuncSetAttribute(const void* host_function, cudaFuncAttribute attribute,
                                 int value) {
  KernelHandle* kernel = Device::Get().FindKernel(host_function);
  if (kernel == nullptr) return Report(cudaErrorInvalidDeviceFunction);
  if (attribute != cudaFuncAttributeMaxDynamicSharedMemorySize) {
    Fault("cudaFuncSetAttribute: attribute not modelled");
  }
  if (value + kernel->kernel->static_shared_bytes > 227 << 10) return Report(cudaErrorInvalidValue);
  kernel->dynamic_shared_limit = value;
  return cudaSuccess;
}

// ---- memory ----

cudaError_t cudaMalloc(void** address, size_t bytes) {
  if (const cudaError_t error = UsableBesideCapture()) return error;
  *address = reinterpret_cast<void*>(Device::Get().Allocate(bytes));
  return *address == nullptr ? Report(cudaErrorMemoryAllocation) : cudaSuccess;
}

cudaError_t cudaFree(void* address) {
  if (address == nullptr) return cudaSuccess;
  if (const int error = ptxsim::RefuseBesideCapture()) return Report(error);
  Device::Get().streams().DrainAll();  // it waits for the device
  const auto bytes = Device::Get().memory().Remove(reinterpret_cast<uint64_t>(address));
  if (!bytes) Fault("cudaFree of what is not allocated");
  Device::Get().memory().Give(*bytes);
  return Report(Device::Get().sticky_error());
}

cudaError_t cudaMallocHost(void** address, size_t bytes) {
  if (const cudaError_t error = UsableBesideCapture()) return error;
  *address = std::aligned_alloc(256, (bytes + 255) / 256 * 256);
  if (*address == nullptr) return Report(cudaErrorMemoryAllocation);
  Device::Get().pinned[reinterpret_cast<uint64_t>(*address)] = bytes;
  return cudaSuccess;
}

cudaError_t cudaFreeHost(void* address) {
  if (address == nullptr) return cudaSuccess;
  if (const int error = ptxsim::RefuseBesideCapture()) return Report(error);
  Device::Get().streams().DrainAll();
  if (Device::Get().pinned.erase(reinterpret_cast<uint64_t>(address)) == 0)
    Fault("cudaFreeHost of what is not allocated");
  std::free(address);
  return cudaSuccess;
}

cudaError_t cudaMemGetInfo(size_t* free, size_t* total) {
  if (const cudaError_t error = Usable()) return error;
  *free = Device::Get().memory().free_bytes();
  *total = Device::Get().memory().total_bytes();
  return cudaSuccess;
}

cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind kind,
                            cudaStream_t stream) {
  if (const cudaError_t error = Usable()) return error;
  Stream& queue = Device::Get().streams().Get(stream);
  if (queue.capture == nullptr) return Enqueue(stream, [=] { Copy(to, from, bytes, kind); });
  // A graph could copy memory that the driver has not pinned; the simulator holds programs to what
  // is always asynchronous.
  const auto lasts = [=] {
    auto& device = Device::Get();
    return std::ranges::all_of(std::array{static_cast<const void*>(to), from}, [&](auto* side) {
      return device.memory().Contains(reinterpret_cast<uint64_t>(side)) ||
             device.IsPinned(side, bytes);
    });
  };
  if (!lasts()) {
    queue.capture->valid = false;
    return Report(cudaErrorStreamCaptureUnsupported);
  }
  return Enqueue(stream, [=] {
    if (!lasts()) Fault("use after free: a graph copies host memory that is no longer pinned");
    Copy(to, from, bytes, kind);
  });
}

cudaError_t cudaMemcpy(void* to, const void* from, size_t bytes, cudaMemcpyKind kind) {
  if (const int refused = ptxsim::RefuseBesideCapture()) return Report(refused);
  const cudaError_t error = cudaMemcpyAsync(to, from, bytes, kind, nullptr);
  if (error == cudaSuccess) Device::Get().streams().Drain(Device::Get().streams().Get(nullptr));
  return error;
}

cudaError_t cudaMemsetAsync(void* to, int value, size_t bytes, cudaStream_t stream) {
  if (const cudaError_t error = Usable()) return error;
  return Enqueue(stream, [=] {
    if (bytes > 0) std::memset(Resolve(to, bytes, "cudaMemset"), value, bytes);
  });
}

cudaError_t cudaMemset(void* to, int value, size_t bytes) {
  if (const int refused = ptxsim::RefuseBesideCapture()) return Report(refused);
  const cudaError_t error = cudaMemsetAsync(to, value, bytes, nullptr);
  if (error == cudaSuccess) Device::Get().streams().Drain(Device::Get().streams().Get(nullptr));
  return error;
}

// ---- streams and events ----
// What was enqueued before a sticky error still runs: the launch that failed is not among it.

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned flags) {
  if (const cudaError_t error = Usable()) return error;
  *stream = reinterpret_cast<cudaStream_t>(
      Device::Get().streams().Create((flags & cudaStreamNonBlocking) == 0));
  return cudaSuccess;
}

cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  Device::Get().streams().Destroy(&Device::Get().streams().Get(stream));
  return cudaSuccess;
}

cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  if (!Device::Get().present()) return Usable();
  Stream& queue = Device::Get().streams().Get(stream);
  if (queue.capture != nullptr) {
    queue.capture->valid = false;
    return Report(cudaErrorStreamCaptureUnsupported);
  }
  Device::Get().streams().Drain(queue);
  return Usable();
}

cudaError_t cudaDeviceSynchronize() {
  if (!Device::Get().present()) return Usable();
  if (const int error = ptxsim::RefuseWhileAnyCaptures()) return Report(error);
  Device::Get().streams().DrainAll();
  return Usable();
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned) {
  if (const cudaError_t error = Usable()) return error;
  auto* created = new Event;
  Device::Get().events.insert(created);
  *event = reinterpret_cast<cudaEvent_t>(created);
  return cudaSuccess;
}

cudaError_t cudaEventDestroy(cudaEvent_t event) {
  auto* dead = reinterpret_cast<Event*>(event);
  if (Device::Get().events.erase(dead) == 0) Fault("cudaEventDestroy of no event");
  Device::Get().streams().RunUntil([&] { return dead->completed == dead->recorded; });
  delete dead;
  return cudaSuccess;
}

cudaError_t cudaEventRecord(cudaEvent_t handle, cudaStream_t stream) {
  if (const cudaError_t error = Usable()) return error;
  NotInACapture(stream, "an event");
  auto* event = reinterpret_cast<Event*>(handle);
  const int number = ++event->recorded;
  return Enqueue(stream, [=] { event->completed = number; });
}

cudaError_t cudaEventSynchronize(cudaEvent_t handle) {
  if (const cudaError_t error = Usable()) return error;
  auto* event = reinterpret_cast<Event*>(handle);
  Device::Get().streams().RunUntil([&] { return event->completed == event->recorded; });
  return cudaSuccess;
}

cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t handle, unsigned) {
  if (const cudaError_t error = Usable()) return error;
  NotInACapture(stream, "an event");
  auto* event = reinterpret_cast<Event*>(handle);
  const int number = event->recorded;
  Device::Get().streams().Get(stream).queue.push_back(
      {[=] { return event->completed >= number; }, nullptr});
  return cudaSuccess;
}

// ---- the device ----

cudaError_t cudaGetDeviceCount(int* count) {
  *count = Device::Get().present() ? 1 : 0;
  return Usable();
}
cudaError_t cudaSetDevice(int device) {
  if (const cudaError_t error = Usable()) return error;
  return device == 0 ? cudaSuccess : Report(cudaErrorInvalidDevice);
}

cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int) {
  if (const cudaError_t error = Usable()) return error;
  std::memset(properties, 0, sizeof(*properties));
  std::strcpy(properties->name, "ptxsim");
  properties->major = Device::Get().target() / 10;
  properties->minor = Device::Get().target() % 10;
  properties->multiProcessorCount = 1;
  properties->totalGlobalMem = Device::Get().memory().total_bytes();
  return cudaSuccess;
}

cudaError_t cudaGetLastError() {
  const cudaError_t error = last_error;
  last_error = static_cast<cudaError_t>(Device::Get().sticky_error());
  return error;
}
cudaError_t cudaPeekAtLastError() { return last_error; }

}  // extern "C"
