#include "kernels/cuda/runtime.h"

#include <cuda_runtime_api.h>

#include <algorithm>

#include "base/status_macros.h"

namespace skim::cuda {
namespace {

constexpr int kOldestMajor = 8;  // sm_80: bf16 mma, cp.async
constexpr size_t kChunkBytes = size_t{1} << 20;
constexpr size_t kStageAlign = 64;

std::string Text(cudaError_t error) {
  return std::string(cudaGetErrorName(error)) + ": " + cudaGetErrorString(error);
}

}  // namespace

absl::StatusOr<std::unique_ptr<Runtime>> Runtime::Create() {
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
  return runtime;
}

Runtime::~Runtime() {
  // Nothing can be done about errors of an end; the process or the device is gone anyway.
  if (stream_ != nullptr) {
    cudaStreamSynchronize(stream_);
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

size_t Runtime::FreeBytes() {
  size_t free = 0, total = 0;
  return Check(cudaMemGetInfo(&free, &total), "cudaMemGetInfo") ? free : 0;
}

absl::StatusOr<void*> Runtime::Allocate(size_t bytes) {
  SKIM_RETURN_IF_ERROR(failure_);
  void* device = nullptr;
  const cudaError_t error = cudaMalloc(&device, std::max<size_t>(bytes, 1));
  if (error == cudaErrorMemoryAllocation) {
    cudaGetLastError();  // an answer, not a fault: later calls must not find it
    return absl::ResourceExhaustedError("cannot allocate " + std::to_string(bytes) +
                                        " bytes of device memory");
  }
  if (!Check(error, "cudaMalloc")) return failure_;
  if (bytes > 0) Check(cudaMemsetAsync(device, 0, bytes, stream_), "cudaMemset");
  return device;
}

void Runtime::Free(void* device) {
  if (device != nullptr) Check(cudaFree(device), "cudaFree");
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
