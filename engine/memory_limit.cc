#include "engine/memory_limit.h"

#include <algorithm>
#include <fstream>
#include <optional>
#include <string>

namespace skim {
namespace {

std::optional<int64_t> ReadNumber(const char* path) {
  std::ifstream file(path);
  int64_t value = 0;
  if (file >> value) return value;  // "max" is no number: no limit
  return std::nullopt;
}

std::optional<int64_t> MachineAvailable() {
  std::ifstream file("/proc/meminfo");
  std::string key, unit;
  int64_t kib = 0;
  while (file >> key >> kib) {
    std::getline(file, unit);
    if (key == "MemAvailable:") return kib * 1024;
  }
  return std::nullopt;
}

}  // namespace

int64_t AvailableMemoryBytes() {
  int64_t available = MachineAvailable().value_or(0);
  const auto limit = ReadNumber("/sys/fs/cgroup/memory.max");
  const auto used = ReadNumber("/sys/fs/cgroup/memory.current");
  if (limit && used) {
    const int64_t left = std::max<int64_t>(0, *limit - *used);
    available = available == 0 ? left : std::min(available, left);
  }
  return available;
}

}  // namespace skim
