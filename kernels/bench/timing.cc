#include "kernels/bench/timing.h"

#include <algorithm>
#include <chrono>
#include <vector>

namespace skim {
namespace {

double Seconds(const std::function<void()>& work) {
  const auto start = std::chrono::steady_clock::now();
  work();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

double Median(std::vector<double> values) {
  std::ranges::nth_element(values, values.begin() + values.size() / 2);
  return values[values.size() / 2];
}

}  // namespace

double MedianSeconds(const std::function<void()>& work) {
  std::vector<double> seconds;
  double total = Seconds(work);
  for (int i = 1; i < 3 || (i < 9 && total < 2) || (i < 500 && total < 0.3); ++i) {
    seconds.push_back(Seconds(work));
    total += seconds.back();
  }
  return Median(std::move(seconds));
}

ReadTiming TimeReading(ReadProbe& probe, double bytes, const std::function<void()>& work) {
  constexpr int kRuns = 9;
  std::vector<double> seconds, shares;
  work();
  double before = probe.BytesPerSecond();
  for (int run = 0; run < kRuns; ++run) {
    const double took = Seconds(work), after = probe.BytesPerSecond();
    seconds.push_back(took);
    shares.push_back(bytes / took / std::max(before, after));
    before = after;
  }
  return {Median(std::move(seconds)), Median(std::move(shares))};
}

}  // namespace skim
