#include "tests/ptxsim/device_memory.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstring>
#include <string>

#include "tests/ptxsim/fault.h"

namespace ptxsim {
namespace {

constexpr size_t kAlign = 256;
constexpr size_t kGap = 256;                     // between allocations: overruns fault
constexpr size_t kFillBytes = size_t{64} << 20;  // larger ones stay untouched pages of zeros

std::string Hex(uint64_t value) {
  char text[32];
  std::snprintf(text, sizeof(text), "0x%llx", static_cast<unsigned long long>(value));
  return text;
}

const std::pair<const uint64_t, size_t>* Around(const std::map<uint64_t, size_t>& table,
                                                uint64_t address) {
  auto after = table.upper_bound(address);
  if (after == table.begin()) return nullptr;
  --after;
  return address < after->first + std::max<size_t>(after->second, 1) + kGap ? &*after : nullptr;
}

}  // namespace

DeviceMemory::DeviceMemory(size_t total_bytes)
    : total_bytes_(std::min(total_bytes, kReservedBytes / 2)) {
  const int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
  void* hidden = mmap(nullptr, kReservedBytes, PROT_NONE, flags, -1, 0);
  void* alias = mmap(nullptr, kReservedBytes, PROT_READ | PROT_WRITE, flags, -1, 0);
  if (hidden == MAP_FAILED || alias == MAP_FAILED) Fault("cannot reserve device addresses");
  base_ = reinterpret_cast<uint64_t>(hidden);
  alias_ = static_cast<uint8_t*>(alias);
}

bool DeviceMemory::Take(size_t bytes) {
  if (bytes > free_bytes()) return false;
  used_bytes_ += bytes;
  return true;
}

uint64_t DeviceMemory::Place(size_t bytes) {
  const size_t span = (bytes + kGap + kAlign - 1) / kAlign * kAlign;
  if (span > kReservedBytes - next_) Fault("the simulator runs out of addresses");
  const uint64_t address = base_ + next_;
  if (bytes <= kFillBytes) std::memset(alias_ + next_, 0xff, bytes);
  next_ += span;
  live_[address] = bytes;
  return address;
}

std::optional<size_t> DeviceMemory::Remove(uint64_t address) {
  const auto found = live_.find(address);
  if (found == live_.end()) return std::nullopt;
  const size_t bytes = found->second;
  // Whole pages go back to the host; the addresses do not come again.
  constexpr uint64_t kPage = 4096;
  const uint64_t begin = (address - base_ + kPage - 1) / kPage * kPage;
  const uint64_t end = (address - base_ + found->second) / kPage * kPage;
  if (end > begin) madvise(alias_ + begin, end - begin, MADV_DONTNEED);
  freed_.insert(*found);
  live_.erase(found);
  last_begin_ = 1;
  last_end_ = 0;
  return bytes;
}

uint8_t* DeviceMemory::At(uint64_t address, size_t bytes, size_t align, const char* what) {
  if (address % align != 0) {
    Fault(std::string(what) + ": misaligned global address " + Hex(address));
  }
  if (address < last_begin_ || address + bytes > last_end_) {
    const auto* live = Around(live_, address);
    if (live == nullptr || address + bytes > live->first + live->second) {
      if (live != nullptr) {
        Fault(std::string(what) + ": out of bounds, " + std::to_string(bytes) +
              " bytes at offset " + std::to_string(address - live->first) +
              " of an allocation of " + std::to_string(live->second));
      }
      if (Around(freed_, address) != nullptr) {
        Fault(std::string(what) + ": use after free at " + Hex(address));
      }
      Fault(std::string(what) + ": out of bounds, no allocation at " + Hex(address));
    }
    last_begin_ = live->first;
    last_end_ = live->first + live->second;
  }
  return alias_ + (address - base_);
}

}  // namespace ptxsim
