// The parts of the GPU check that compute. `tiny`: sizes for a simulated device.
#pragma once

#include <optional>
#include <string>

#include "tests/gpu/report.h"

namespace skim {

// What the device does at most, by a copy inside its memory and by a large product of cuBLASLt's;
// then products and attention, with their shares of those. Returns the copy's bytes per second,
// read and written.
std::optional<double> RunKernelBench(bool tiny, Report* report);

// A model with random weights, written into `directory` and removed again: prompts, decoding, and
// whether a sequence gets the same tokens alone and among others, and with CUDA graphs and without.
// `copy` as returned above.
void RunEngineBench(bool tiny, const std::string& directory, std::optional<double> copy,
                    Report* report);

}  // namespace skim
