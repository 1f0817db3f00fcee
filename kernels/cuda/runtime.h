// The one owner of a device's stream and memory. Every CUDA call goes through here and is
// checked; after the first failure nothing more is enqueued and Wait() returns it, each time.
//
// Device memory is one cudaMalloc per buffer: an engine makes its buffers once, at load, and so
// compute-sanitizer and the simulator of the tests see where each of them ends.
#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

struct CUstream_st;

namespace skim::cuda {

class Runtime {
 public:
  // FAILED_PRECONDITION if there is no device that the kernels run on.
  static absl::StatusOr<std::unique_ptr<Runtime>> Create();
  ~Runtime();
  Runtime(const Runtime&) = delete;
  Runtime& operator=(const Runtime&) = delete;

  CUstream_st* stream() const { return stream_; }
  const std::string& device_name() const { return device_name_; }
  size_t FreeBytes();

  // Not null, 256-byte aligned, zeroed in the stream's order. RESOURCE_EXHAUSTED if there is
  // not that much.
  absl::StatusOr<void*> Allocate(size_t bytes);
  void Free(void* device);

  // Enqueue; host memory stays alive and unchanged until Wait().
  void Upload(void* device, const void* host, size_t bytes);
  void Download(void* host, const void* device, size_t bytes);

  // Pinned host memory that lives until the next Wait() has returned, for what a call uploads
  // or downloads on its own account. Null after a failure.
  void* Stage(size_t bytes);

  bool ok() const { return failure_.ok(); }
  // After a launch of `what`.
  void CheckLaunch(const char* what);
  // For Wait() to return, unless something failed before.
  void Fail(const absl::Status& failure);
  // The first failure so far. Whatever it returns, the device is done with all host memory.
  absl::Status Wait();

 private:
  struct Chunk {
    std::byte* data;
    size_t bytes;
  };

  Runtime() = default;
  // Keeps the first failure; true if there is none.
  bool Check(int error, const char* what);

  CUstream_st* stream_ = nullptr;
  std::string device_name_;
  absl::Status failure_;
  std::vector<Chunk> chunks_;  // staging; the last one is being filled
  size_t staged_ = 0;          // bytes of it in use
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
