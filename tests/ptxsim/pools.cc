// Memory pools: allocations in the order of a stream, from memory that stays taken.
#include <algorithm>

#include "tests/ptxsim/device.h"
#include "tests/ptxsim/fault.h"
#include "tests/ptxsim/runtime.h"

using ptxsim::Device;
using ptxsim::Enqueue;
using ptxsim::Fault;
using ptxsim::NotInACapture;
using ptxsim::Pool;
using ptxsim::Report;
using ptxsim::Usable;

namespace {

Pool& PoolOf(cudaMemPool_t handle) {
  for (const auto& pool : Device::Get().pools) {
    if (pool.get() == reinterpret_cast<Pool*>(handle)) return *pool;
  }
  Fault("a memory pool that does not exist");
}

}  // namespace

extern "C" {

cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int) {
  if (const cudaError_t error = Usable()) return error;
  if (attribute != cudaDevAttrMemoryPoolsSupported) {
    Fault("cudaDeviceGetAttribute: attribute not modelled");
  }
  *value = 1;
  return cudaSuccess;
}

cudaError_t cudaMemPoolCreate(cudaMemPool_t* handle, const cudaMemPoolProps* properties) {
  if (const cudaError_t error = Usable()) return error;
  if (properties->allocType != cudaMemAllocationTypePinned ||
      properties->location.type != cudaMemLocationTypeDevice || properties->location.id != 0 ||
      properties->handleTypes != cudaMemHandleTypeNone || properties->maxSize != 0 ||
      properties->usage != 0) {
    Fault("cudaMemPoolCreate: properties not modelled");
  }
  auto pool = std::make_unique<Pool>();
  *handle = reinterpret_cast<cudaMemPool_t>(pool.get());
  Device::Get().pools.insert(std::move(pool));
  return cudaSuccess;
}

cudaError_t cudaMemPoolSetAttribute(cudaMemPool_t handle, cudaMemPoolAttr attribute, void* value) {
  if (const cudaError_t error = Usable()) return error;
  if (attribute != cudaMemPoolAttrReleaseThreshold) {
    Fault("cudaMemPoolSetAttribute: attribute not modelled");
  }
  PoolOf(handle).threshold = *static_cast<uint64_t*>(value);
  return cudaSuccess;
}

cudaError_t cudaMemPoolDestroy(cudaMemPool_t handle) {
  Pool& pool = PoolOf(handle);
  if (!pool.live.empty()) {
    Fault("leak: a memory pool ends with " + std::to_string(pool.live.size()) + " allocations");
  }
  Device::Get().streams().DrainAll();
  Device::Get().memory().Give(pool.reserved);
  std::erase_if(Device::Get().pools, [&](const auto& owned) { return owned.get() == &pool; });
  return cudaSuccess;
}

cudaError_t cudaMallocFromPoolAsync(void** address, size_t bytes, cudaMemPool_t handle,
                                    cudaStream_t stream) {
  if (const cudaError_t error = Usable()) return error;
  if (bytes == 0) return Report(cudaErrorInvalidValue);
  NotInACapture(stream, "an allocation, which would become a part of the graph,");
  *address = reinterpret_cast<void*>(Device::Get().Allocate(bytes, &PoolOf(handle)));
  return *address == nullptr ? Report(cudaErrorMemoryAllocation) : cudaSuccess;
}

// The program may not use it from now on, the device may until the stream gets here.
cudaError_t cudaFreeAsync(void* handle, cudaStream_t stream) {
  const auto address = reinterpret_cast<uint64_t>(handle);
  for (const auto& pool : Device::Get().pools) {
    const auto found = pool->live.find(address);
    if (found == pool->live.end()) continue;
    NotInACapture(stream, "a free, which would become a part of the graph,");
    pool->used -= found->second;
    pool->live.erase(found);
    Enqueue(stream, [address, pool = pool.get()] {
      Device::Get().memory().Remove(address);
      pool->Trim(&Device::Get().memory());
    });
    return Usable();
  }
  Fault("cudaFreeAsync of what is not allocated");
}

// ---- for tests, tests/ptxsim/from_tests.h ----

void ptxsim_fail_allocation(long n) { Device::Get().FailAllocation(n); }
size_t ptxsim_live_allocations() { return Device::Get().memory().live(); }

}  // extern "C"
