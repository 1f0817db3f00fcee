#include "kernels/cuda/runtime.h"

#include <cuda_runtime_api.h>

#include <algorithm>
#include <cstdint>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"

namespace skim::cuda {
namespace {

constexpr int kOldestMajor = 8;  // sm_80: bf16 mma, cp.async
constexpr size_t kChunkBytes = size_t{1} << 20;
constexpr size_t kStageAlign = 64;
constexpr size_t kArenaUnit = size_t{2} << 20;  // pages of a device

std::string Text(cudaError_t error) {
  return std::string(cudaGetErrorName(error)) + ": " + cudaGetErrorString(error);
}

}  // namespace

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
    cudaStreamSynchronize(stream_);
    if (arena_ != nullptr) cudaMemPoolDestroy(arena_);
    cudaStreamDestroy(stream_);
  }
  for (const Chunk& chunk : chunks_) cudaFreeHost(chunk.data);
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
  used_bytes_ -= found->second;
  allocated_.erase(found);
  Check(cudaFreeAsync(device, stream_), "cudaFreeAsync");
}

void Runtime::Upload(void* device, const void* host, size_t bytes) {
  if (bytes == 0 || !ok()) return;
  Check(cudaMemcpyAsync(device, host, bytes, cudaMemcpyHostToDevice, stream_), "upload");
}

void Runtime::Download(void* host, const void* device, size_t bytes) {
  if (bytes == 0 || !ok()) return;
  Check(cudaMemcpyAsync(host, device, bytes, cudaMemcpyDeviceToHost, stream_), "download");
}

void* Runtime::Stage(size_t bytes) {
  bytes = (bytes + kStageAlign - 1) / kStageAlign * kStageAlign;
  if (chunks_.empty() || staged_ + bytes > chunks_.back().bytes) {
    const size_t wanted = std::max(bytes, kChunkBytes);
    void* data = nullptr;
    if (!ok() || !Check(cudaMallocHost(&data, wanted), "pinned host memory")) return nullptr;
    chunks_.push_back({static_cast<std::byte*>(data), wanted});
    staged_ = 0;
  }
  void* stage = chunks_.back().data + staged_;
  staged_ += bytes;
  return stage;
}

void Runtime::CheckLaunch(const char* what) { Check(cudaGetLastError(), what); }

void Runtime::Fail(const absl::Status& failure) {
  if (ok()) failure_ = failure;
}

absl::Status Runtime::Wait() {
  // After a failure, too: what was enqueued before it still uses the caller's memory.
  Check(cudaStreamSynchronize(stream_), "the step");
  // Keep the last chunk, which is the largest, for the next time.
  while (chunks_.size() > 1) {
    Check(cudaFreeHost(chunks_.front().data), "cudaFreeHost");
    chunks_.erase(chunks_.begin());
  }
  staged_ = 0;
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
