// How much memory this process may still take: the machine's, or its container's.
#pragma once

#include <cstdint>

namespace skim {

// The smaller of MemAvailable and what the cgroup limit leaves; 0 if neither can be read.
int64_t AvailableMemoryBytes();

}  // namespace skim
