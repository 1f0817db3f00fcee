// The processor cores this process may use.
#pragma once

#include <vector>

namespace skim {

// One logical CPU of every physical core in the calling thread's affinity mask, ascending.
// Hyper-threads of one core share its dot-product units, so a second one adds nothing.
// Never empty.
std::vector<int> PhysicalCores();

// Best effort: a refused pin costs speed, not correctness.
void PinThisThread(int cpu);

}  // namespace skim
