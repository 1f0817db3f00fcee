// Global memory: a table of allocations behind addresses that the host cannot touch (an
// access from the host is a segmentation fault, as on a real machine). The simulator itself
// reads and writes an alias. Addresses are never used twice, so use after free is seen.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>

namespace ptxsim {

class DeviceMemory {
 public:
  explicit DeviceMemory(size_t total_bytes);

  // What a program has of the memory; false if there is not that much.
  bool Take(size_t bytes);
  void Give(size_t bytes) { used_bytes_ -= bytes; }

  // An address for bytes that are taken: 256-byte aligned, filled with NaN patterns.
  uint64_t Place(size_t bytes);
  // Its size; nothing for anything but a live allocation.
  std::optional<size_t> Remove(uint64_t address);

  // Host alias of [address, address + bytes), which must lie inside one live allocation and
  // be aligned to `align`; else a fault that names `what`.
  uint8_t* At(uint64_t address, size_t bytes, size_t align, const char* what);
  bool Contains(uint64_t address) const { return address - base_ < kReservedBytes; }

  size_t total_bytes() const { return total_bytes_; }
  size_t free_bytes() const { return total_bytes_ - used_bytes_; }
  size_t live() const { return live_.size(); }

 private:
  static constexpr size_t kReservedBytes = size_t{4} << 40;

  uint64_t base_ = 0;  // not accessible
  uint8_t* alias_ = nullptr;
  size_t total_bytes_;
  size_t used_bytes_ = 0;
  size_t next_ = 4096;                       // offset of the next allocation
  std::map<uint64_t, size_t> live_, freed_;  // address -> bytes
  uint64_t last_begin_ = 1, last_end_ = 0;   // the allocation that was hit last
};

}  // namespace ptxsim
