// Zeroed, 64-byte aligned memory; large blocks ask for huge pages, since streaming
// gigabytes of weights through 4 KiB pages costs a page walk every 64 cache lines.
#pragma once

#include <cstddef>

#include "absl/status/statusor.h"

namespace skim {

class AlignedMemory {
 public:
  // RESOURCE_EXHAUSTED if the machine has not that much. Zero bytes are allowed.
  static absl::StatusOr<AlignedMemory> Allocate(size_t bytes);

  AlignedMemory() = default;
  AlignedMemory(AlignedMemory&& other) noexcept;
  AlignedMemory& operator=(AlignedMemory&& other) noexcept;
  ~AlignedMemory();

  std::byte* data() const { return data_; }
  size_t size() const { return size_; }

 private:
  std::byte* data_ = nullptr;
  size_t size_ = 0;
  size_t mapped_bytes_ = 0;  // 0: from the heap
};

}  // namespace skim
