// How much of a device's memory a backend takes, all of it at its start.
#pragma once

#include <cstdint>

namespace skim {

struct DeviceMemory {
  int64_t bytes = 0;   // > 0: so many, else by `share`
  double share = 0.9;  // of what is free; the driver and the kernels' code need some, too
};

}  // namespace skim
