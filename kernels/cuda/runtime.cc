#include "kernels/cuda/runtime.h"

#include <cuda_runtime_api.h>

#include <algorithm>
#include <cstdint>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"

namespace skim::cuda {
namespace {

constexpr int kOldestMajor = 8;  // sm_80: bf16 mma, cp.async
constexpr size_t kStagingChunk = size_t{1} << 20;
constexpr size_t kListChunk = size_t{64} << 10;
constexpr size_t kArenaUnit = size_t{2} << 20;  // pages of a device

std::string Text(cudaError_t error) {
  return std::string(cudaGetErrorName(error)) + ": " + cudaGetErrorString(error);
}

}  // namespace

Runtime::Runtime()
    : staging_(
          kStagingChunk,
          [this](size_t bytes) -> void* {
            void* data = nullptr;
            return ok() && Check(cudaMallocHost(&data, bytes), "pinned host memory") ? data
                                                                                     : nullptr;
          },
          [this](void* data) { Check(cudaFreeHost(data), "cudaFreeHost"); }),
      lists_(
          kListChunk,
          [this](size_t bytes) -> void* {
            const auto data = Allocate(bytes);
            if (!data.ok()) Fail(data.status());
            return data.ok() ? *data : nullptr;
          },
          [this](void* data) { Free(data); }) {}

absl::StatusOr<std::unique_ptr<Runtime>> Runtime::Create(const DeviceMemory& memory) {
  int count = 0;
  const cudaError_t error = cudaGetDeviceCount(&count);
  if (error != cudaSuccess || count == 0) {
    return absl::FailedPreconditionError("backend: no CUDA device can be used here (" +
                                         Text(error == cudaSuccess ? cudaErrorNoDevice : error) +
                                         ")");
  }
  cudaDeviceProp properties;
  if (const cudaError_t e = cudaGetDeviceProperties(&properties, 0); e != cudaSuccess) {
    return absl::FailedPreconditionError("backend: the CUDA device does not answer (" + Text(e) +
                                         ")");
  }
  if (properties.major < kOldestMajor) {
    return absl::FailedPreconditionError(std::string("backend: the CUDA device ") +
                                         properties.name + " has compute capability " +
                                         std::to_string(properties.major) + "." +
                                         std::to_string(properties.minor) + ", 8.0 is the least");
  }
  std::unique_ptr<Runtime> runtime(new Runtime);
  runtime->device_name_ = properties.name;
  runtime->Check(cudaSetDevice(0), "cudaSetDevice");
  runtime->Check(cudaStreamCreateWithFlags(&runtime->stream_, cudaStreamNonBlocking),
                 "cudaStreamCreate");
  SKIM_RETURN_IF_ERROR(runtime->failure_);
  runtime->launches_.SetStream(runtime->stream_);
  SKIM_RETURN_IF_ERROR(runtime->TakeMemory(memory));
  return runtime;
}

absl::Status Runtime::TakeMemory(const DeviceMemory& memory) {
  int pools = 0;
  size_t free = 0, total = 0;
  Check(cudaDeviceGetAttribute(&pools, cudaDevAttrMemoryPoolsSupported, 0), "a device attribute");
  Check(cudaMemGetInfo(&free, &total), "cudaMemGetInfo");
  SKIM_RETURN_IF_ERROR(failure_);
  if (pools == 0) {
    return absl::FailedPreconditionError("backend: the driver has no memory pools for " +
                                         device_name_);
  }
  const size_t wanted = memory.bytes > 0 ? static_cast<size_t>(memory.bytes)
                                         : static_cast<size_t>(memory.share * free);
  arena_bytes_ = wanted / kArenaUnit * kArenaUnit;
  cudaMemPoolProps properties = {};
  properties.allocType = cudaMemAllocationTypePinned;
  properties.location = {cudaMemLocationTypeDevice, 0};
  Check(cudaMemPoolCreate(&arena_, &properties), "cudaMemPoolCreate");
  uint64_t keep = UINT64_MAX;
  Check(cudaMemPoolSetAttribute(arena_, cudaMemPoolAttrReleaseThreshold, &keep),
        "cudaMemPoolSetAttribute");
  SKIM_RETURN_IF_ERROR(failure_);
  // In one piece, so that the pool has it from now on.
  void* all = nullptr;
  const cudaError_t error = arena_bytes_ == 0
                                ? cudaErrorMemoryAllocation
                                : cudaMallocFromPoolAsync(&all, arena_bytes_, arena_, stream_);
  if (error == cudaErrorMemoryAllocation) {
    return absl::ResourceExhaustedError(absl::StrCat("device_memory: ", wanted,
                                                     " bytes cannot be had, ", free, " of ", total,
                                                     " are free on ", device_name_));
  }
  if (Check(error, "cudaMallocFromPoolAsync")) Check(cudaFreeAsync(all, stream_), "cudaFreeAsync");
  return Wait();
}

Runtime::~Runtime() {
  // Nothing can be done about errors of an end; the process or the device is gone anyway.
  if (stream_ != nullptr) {
    Wait().IgnoreError();
    launches_.Clear();
    lists_.Clear();
    if (arena_ != nullptr) cudaMemPoolDestroy(arena_);
    cudaStreamDestroy(stream_);
  }
  staging_.Clear();
}

bool Runtime::Check(int error, const char* what) {
  if (error != cudaSuccess && failure_.ok()) {
    const auto code = static_cast<cudaError_t>(error);
    const std::string text = std::string("cuda: ") + what + " failed, " + Text(code);
    failure_ = code == cudaErrorMemoryAllocation ? absl::ResourceExhaustedError(text)
                                                 : absl::InternalError(text);
  }
  return failure_.ok();
}

absl::StatusOr<void*> Runtime::Allocate(size_t bytes) {
  SKIM_RETURN_IF_ERROR(failure_);
  void* device = nullptr;
  const size_t size = std::max<size_t>(bytes, 1);
  const cudaError_t error = size > free_bytes()
                                ? cudaErrorMemoryAllocation
                                : cudaMallocFromPoolAsync(&device, size, arena_, stream_);
  if (error == cudaErrorMemoryAllocation) {
    cudaGetLastError();  // an answer, not a fault: later calls must not find it
    return absl::ResourceExhaustedError(absl::StrCat("device_memory: ", bytes,
                                                     " more bytes are wanted, ", free_bytes(),
                                                     " of ", arena_bytes_, " are left"));
  }
  if (!Check(error, "cudaMallocFromPoolAsync")) return failure_;
  allocated_[device] = size;
  used_bytes_ += size;
  if (bytes > 0) Check(cudaMemsetAsync(device, 0, bytes, stream_), "cudaMemset");
  return device;
}

void Runtime::Free(void* device) {
  const auto found = allocated_.find(device);
  if (found == allocated_.end()) return;
  Flush();
  used_bytes_ -= found->second;
  allocated_.erase(found);
  Check(cudaFreeAsync(device, stream_), "cudaFreeAsync");
}

void Runtime::Upload(void* device, const void* host, size_t bytes) {
  Flush();
  if (bytes == 0 || !ok()) return;
  Check(cudaMemcpyAsync(device, host, bytes, cudaMemcpyHostToDevice, stream_), "upload");
}

void Runtime::Download(void* host, const void* device, size_t bytes) {
  Flush();
  if (bytes == 0 || !ok()) return;
  Check(cudaMemcpyAsync(host, device, bytes, cudaMemcpyDeviceToHost, stream_), "download");
}

Runtime::List Runtime::TakeList(size_t bytes) {
  const List list = {staging_.Take(bytes), lists_.Take(bytes), bytes};
  return list.host != nullptr && list.device != nullptr ? list : List{};
}

void Runtime::Send(const List& list) {
  const size_t bytes = StepMemory::Rounded(unsent_.bytes);
  if (unsent_.bytes > 0 && list.host == unsent_.host + bytes &&
      list.device == unsent_.device + bytes) {
    unsent_.bytes = bytes + list.bytes;
  } else {
    SendUnsent();
    unsent_ = list;
  }
  if (!launches_.holding()) SendUnsent();
}

void Runtime::SendUnsent() {
  const List list = std::exchange(unsent_, {});
  if (list.bytes == 0 || !ok()) return;
  Check(cudaMemcpyAsync(list.device, list.host, list.bytes, cudaMemcpyHostToDevice, stream_),
        "upload");
}

void Runtime::Flush() {
  SendUnsent();
  if (!ok()) return launches_.Drop();
  const char* what = nullptr;
  const int error = launches_.Launch(&what);
  if (!Check(error, what)) cudaGetLastError();  // told here, and by nobody else
}

void Runtime::CheckLaunch(const char* what) {
  if (launches_.holding()) return launches_.Name(what);
  Check(cudaGetLastError(), what);
}

void Runtime::Fail(const absl::Status& failure) {
  if (ok()) failure_ = failure;
}

absl::Status Runtime::Wait() {
  Flush();
  // After a failure, too: what was enqueued before it still uses the caller's memory.
  Check(cudaStreamSynchronize(stream_), "the step");
  launches_.EndStep();
  staging_.EndStep();
  lists_.EndStep();
  return failure_;
}

void* Scratch::ReserveBytes(size_t bytes) {
  if (bytes <= bytes_) return data_;
  runtime_.Free(data_);
  data_ = nullptr;
  bytes_ = 0;
  auto fresh = runtime_.Allocate(2 * bytes);
  if (!fresh.ok()) {
    runtime_.Fail(fresh.status());
    return nullptr;
  }
  data_ = *fresh;
  bytes_ = 2 * bytes;
  return data_;
}

}  // namespace skim::cuda
