// How long work takes, as the benchmarks count it.
#pragma once

#include <functional>

#include "kernels/bench/roofs.h"

namespace skim {

// Median of several runs; the first, which warms up, does not count.
double MedianSeconds(const std::function<void()>& work);

struct ReadTiming {
  double seconds;  // median
  double share;    // of the read bandwidth: median over the runs
};

// Work that has to read `bytes` of memory. Each run is held against the better of the readings
// just before and after it.
ReadTiming TimeReading(ReadProbe& probe, double bytes, const std::function<void()>& work);

}  // namespace skim
