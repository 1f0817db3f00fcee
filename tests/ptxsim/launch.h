// Runs one launch, block after block in random order.
#pragma once

#include <array>
#include <cstdint>

#include "tests/ptxsim/thread.h"

namespace ptxsim {

struct Launch {
  Kernel* kernel = nullptr;
  std::array<unsigned, 3> grid{}, block{};
  int dynamic_shared_bytes = 0;
  std::vector<uint8_t> parameters;
};

// A fault for anything that a device would not do or would do wrongly.
void Run(const Launch& launch, DeviceMemory& memory, Random& random);

}  // namespace ptxsim
