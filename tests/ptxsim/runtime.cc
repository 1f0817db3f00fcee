// The CUDA runtime's entry points that nvcc-built programs and kernels/cuda use, on the
// simulated device. Preloaded, they take the place of libcudart's; what is missing here
// falls through to the real library, which finds no driver and says so.
#include "tests/ptxsim/runtime.h"

#include <cuda_runtime_api.h>

#include <cstdlib>
#include <cstring>

#include "tests/ptxsim/device.h"
#include "tests/ptxsim/fault.h"

using ptxsim::Device;
using ptxsim::Event;
using ptxsim::Fault;
using ptxsim::KernelHandle;

using ptxsim::Enqueue;
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

void ptxsim::Enqueue(cudaStream_t stream, std::function<void()> run) {
  Device::Get().streams().Get(stream).queue.push_back({nullptr, std::move(run)});
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
  if (const cudaError_t error = Usable()) return error;
  *address = reinterpret_cast<void*>(Device::Get().Allocate(bytes));
  return *address == nullptr ? Report(cudaErrorMemoryAllocation) : cudaSuccess;
}

cudaError_t cudaFree(void* address) {
  if (address == nullptr) return cudaSuccess;
  Device::Get().streams().DrainAll();  // it waits for the device
  const auto bytes = Device::Get().memory().Remove(reinterpret_cast<uint64_t>(address));
  if (!bytes) Fault("cudaFree of what is not allocated");
  Device::Get().memory().Give(*bytes);
  return Report(Device::Get().sticky_error());
}

cudaError_t cudaMallocHost(void** address, size_t bytes) {
  if (const cudaError_t error = Usable()) return error;
  *address = std::aligned_alloc(256, (bytes + 255) / 256 * 256);
  if (*address == nullptr) return Report(cudaErrorMemoryAllocation);
  Device::Get().pinned.insert(*address);
  return cudaSuccess;
}

cudaError_t cudaFreeHost(void* address) {
  if (address == nullptr) return cudaSuccess;
  Device::Get().streams().DrainAll();
  if (Device::Get().pinned.erase(address) == 0) Fault("cudaFreeHost of what is not allocated");
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
  Enqueue(stream, [=] { Copy(to, from, bytes, kind); });
  return cudaSuccess;
}

cudaError_t cudaMemcpy(void* to, const void* from, size_t bytes, cudaMemcpyKind kind) {
  const cudaError_t error = cudaMemcpyAsync(to, from, bytes, kind, nullptr);
  if (error == cudaSuccess) Device::Get().streams().Drain(Device::Get().streams().Get(nullptr));
  return error;
}

cudaError_t cudaMemsetAsync(void* to, int value, size_t bytes, cudaStream_t stream) {
  if (const cudaError_t error = Usable()) return error;
  Enqueue(stream, [=] {
    if (bytes > 0) std::memset(Resolve(to, bytes, "cudaMemset"), value, bytes);
  });
  return cudaSuccess;
}

cudaError_t cudaMemset(void* to, int value, size_t bytes) {
  const cudaError_t error = cudaMemsetAsync(to, value, bytes, nullptr);
  if (error == cudaSuccess) Device::Get().streams().Drain(Device::Get().streams().Get(nullptr));
  return error;
}

// ---- streams and events ----
// What was enqueued before a sticky error still runs: the launch that failed is not among it.

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned) {
  if (const cudaError_t error = Usable()) return error;
  *stream = reinterpret_cast<cudaStream_t>(Device::Get().streams().Create());
  return cudaSuccess;
}

cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  Device::Get().streams().Destroy(&Device::Get().streams().Get(stream));
  return cudaSuccess;
}

cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  if (!Device::Get().present()) return Usable();
  Device::Get().streams().Drain(Device::Get().streams().Get(stream));
  return Usable();
}

cudaError_t cudaDeviceSynchronize() {
  if (!Device::Get().present()) return Usable();
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
  auto* event = reinterpret_cast<Event*>(handle);
  const int number = ++event->recorded;
  Enqueue(stream, [=] { event->completed = number; });
  return cudaSuccess;
}

cudaError_t cudaEventSynchronize(cudaEvent_t handle) {
  if (const cudaError_t error = Usable()) return error;
  auto* event = reinterpret_cast<Event*>(handle);
  Device::Get().streams().RunUntil([&] { return event->completed == event->recorded; });
  return cudaSuccess;
}

cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t handle, unsigned) {
  if (const cudaError_t error = Usable()) return error;
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
