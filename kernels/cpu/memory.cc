#include "kernels/cpu/memory.h"

#include <sys/mman.h>

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <string>
#include <utility>

namespace skim {
namespace {

constexpr size_t kAlignment = 64;
constexpr size_t kHugePage = size_t{2} << 20;
constexpr size_t kLargeBytes = size_t{4} << 20;

absl::Status Exhausted(size_t bytes) {
  return absl::ResourceExhaustedError("cannot allocate " + std::to_string(bytes) + " bytes");
}

size_t RoundUp(size_t bytes, size_t to) { return (bytes + to - 1) / to * to; }

}  // namespace

absl::StatusOr<AlignedMemory> AlignedMemory::Allocate(size_t bytes) {
  AlignedMemory memory;
  memory.size_ = bytes;
  if (bytes > SIZE_MAX / 2) return Exhausted(bytes);
  if (bytes < kLargeBytes) {
    const size_t rounded = RoundUp(bytes + (bytes == 0), kAlignment);
    void* data = std::aligned_alloc(kAlignment, rounded);
    if (data == nullptr) return Exhausted(bytes);
    std::memset(data, 0, rounded);
    memory.data_ = static_cast<std::byte*>(data);
    return memory;
  }
  // Fresh mappings are zero and take real memory only when touched. Map enough to cut an
  // aligned piece out, give the rest back.
  const size_t wanted = RoundUp(bytes, kHugePage);
  void* mapped =
      mmap(nullptr, wanted + kHugePage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (mapped == MAP_FAILED) return Exhausted(bytes);
  auto* start = static_cast<std::byte*>(mapped);
  const size_t head =
      RoundUp(reinterpret_cast<uintptr_t>(start), kHugePage) - reinterpret_cast<uintptr_t>(start);
  if (head > 0) munmap(start, head);
  if (head < kHugePage) munmap(start + head + wanted, kHugePage - head);
  madvise(start + head, wanted, MADV_HUGEPAGE);
  memory.data_ = start + head;
  memory.mapped_bytes_ = wanted;
  return memory;
}

AlignedMemory::AlignedMemory(AlignedMemory&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)),
      size_(std::exchange(other.size_, 0)),
      mapped_bytes_(std::exchange(other.mapped_bytes_, 0)) {}

AlignedMemory& AlignedMemory::operator=(AlignedMemory&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(size_, other.size_);
  std::swap(mapped_bytes_, other.mapped_bytes_);
  return *this;
}

AlignedMemory::~AlignedMemory() {
  if (mapped_bytes_ > 0) {
    munmap(data_, mapped_bytes_);
  } else {
    std::free(data_);
  }
}

}  // namespace skim
