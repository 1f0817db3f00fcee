#include "loadtest/samples.h"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace skim {
namespace {

double NearestRank(const std::vector<double>& sorted, double share) {
  if (sorted.empty()) return 0;
  // 1e-9: 0.9 * 10 must not become rank 10 because 0.9 has no exact binary form.
  const double rank = std::ceil(share * static_cast<double>(sorted.size()) - 1e-9);
  const size_t index = std::clamp<size_t>(static_cast<size_t>(rank), 1, sorted.size()) - 1;
  return sorted[index];
}

std::vector<double> Sorted(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values;
}

}  // namespace

double Samples::Percentile(double share) const { return NearestRank(Sorted(values_), share); }

double Samples::Median() const {
  if (values_.empty()) return 0;
  const std::vector<double> sorted = Sorted(values_);
  const size_t middle = sorted.size() / 2;
  if (sorted.size() % 2 == 1) return sorted[middle];
  return (sorted[middle - 1] + sorted[middle]) / 2;
}

Samples::Summary Samples::Summarize() const {
  Summary summary;
  if (values_.empty()) return summary;
  const std::vector<double> sorted = Sorted(values_);
  summary.count = sorted.size();
  summary.mean =
      std::accumulate(sorted.begin(), sorted.end(), 0.0) / static_cast<double>(sorted.size());
  summary.p50 = NearestRank(sorted, 0.5);
  summary.p90 = NearestRank(sorted, 0.9);
  summary.p99 = NearestRank(sorted, 0.99);
  summary.max = sorted.back();
  return summary;
}

}  // namespace skim
