// The one owner of a device's stream and memory. Every CUDA call goes through here and is
// checked; after the first failure nothing more is enqueued and Wait() returns it, each time.
//
// Device memory is one arena: a memory pool of the driver's, which is filled at the start to the
// size that was asked for and gives nothing back before the end. Buffers come from it and return
// to it in the order of the stream, so neither waits for the device, in a step either. That it is
// the driver's pool and no allocator of our own lets compute-sanitizer and the simulator of the
// tests see where each buffer ends and whether it lives.
#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/cuda/launch_queue.h"
#include "kernels/cuda/step_memory.h"
#include "kernels/device_memory.h"

struct CUmemPoolHandle_st;
struct CUstream_st;

namespace skim::cuda {

class Runtime {
 public:
  // FAILED_PRECONDITION if there is no device that the kernels run on, RESOURCE_EXHAUSTED if it
  // has not that much memory.
  static absl::StatusOr<std::unique_ptr<Runtime>> Create(const DeviceMemory& memory = {});
  ~Runtime();
  Runtime(const Runtime&) = delete;
  Runtime& operator=(const Runtime&) = delete;

  // Where kernels are launched.
  LaunchQueue& launches() { return launches_; }
  // Where kernels that are not ours are enqueued, behind all that were launched so far. Until the
  // next Wait() none is held back any more: what is between theirs is too little to be kept.
  CUstream_st* stream() {
    Flush();
    launches_.Release();
    return stream_;
  }
  const std::string& device_name() const { return device_name_; }
  size_t free_bytes() const { return arena_bytes_ - used_bytes_; }

  // Not null, 256-byte aligned, zeroed in the stream's order. RESOURCE_EXHAUSTED if the arena has
  // not that much left.
  absl::StatusOr<void*> Allocate(size_t bytes);
  // What is enqueued already may still use it.
  void Free(void* device);

  // Until the next Wait() kernels may be held back, to be launched together (LaunchQueue::Hold).
  // All that is enqueued otherwise keeps its place among them.
  void HoldLaunches() { launches_.Hold(); }

  // Enqueue; host memory stays alive and unchanged until Wait().
  void Upload(void* device, const void* host, size_t bytes);
  void Download(void* host, const void* device, size_t bytes);

  // Pinned host memory that lives until the next Wait() has returned, for what a call downloads
  // on its own account. Null after a failure.
  std::byte* Stage(size_t bytes) { return staging_.Take(bytes); }

  // Device memory that lives as long, for lists that kernels launched from now on read:
  // write(host, device) puts the bytes at `host` that will lie at `device`. Lists that are made
  // while launches are held back go up together. Null after a failure.
  template <typename Write>
  std::byte* MakeList(size_t bytes, const Write& write) {
    const List list = TakeList(bytes);
    if (list.bytes == 0) return nullptr;
    write(list.host, list.device);
    Send(list);
    return list.device;
  }

  bool ok() const { return failure_.ok(); }
  // After a launch of `what`, perhaps in several kernels.
  void CheckLaunch(const char* what);
  // For Wait() to return, unless something failed before.
  void Fail(const absl::Status& failure);
  // The first failure so far. Whatever it returns, the device is done with all host memory.
  absl::Status Wait();

 private:
  struct List {
    std::byte *host = nullptr, *device = nullptr;
    size_t bytes = 0;
  };

  Runtime();
  absl::Status TakeMemory(const DeviceMemory& memory);
  // Keeps the first failure; true if there is none.
  bool Check(int error, const char* what);
  // Zero bytes, if there is no memory.
  List TakeList(size_t bytes);
  void Send(const List& list);
  void SendUnsent();
  // Uploads lists and launches kernels that were held back.
  void Flush();

  CUstream_st* stream_ = nullptr;
  CUmemPoolHandle_st* arena_ = nullptr;
  size_t arena_bytes_ = 0, used_bytes_ = 0;
  std::unordered_map<void*, size_t> allocated_;
  std::string device_name_;
  absl::Status failure_;
  LaunchQueue launches_;
  StepMemory staging_, lists_;  // pinned host memory, device memory
  List unsent_;                 // neighbours on both sides
};

// A device buffer that only grows, for scratch. What it held is lost when it does.
class Scratch {
 public:
  explicit Scratch(Runtime* runtime) : runtime_(*runtime) {}
  ~Scratch() { runtime_.Free(data_); }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;

  // Null, and a failure in the runtime's next Wait(), if there is not that much.
  template <typename T>
  T* Reserve(size_t count) {
    return static_cast<T*>(ReserveBytes(count * sizeof(T)));
  }

 private:
  void* ReserveBytes(size_t bytes);

  Runtime& runtime_;
  void* data_ = nullptr;
  size_t bytes_ = 0;
};

}  // namespace skim::cuda
