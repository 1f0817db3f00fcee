#include "loadtest/samples.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <limits>
#include <random>

namespace skim {
namespace {

// By definition: the smallest value that at least `percent` in a hundred do not exceed.
double Oracle(const std::vector<double>& values, size_t percent) {
  double best = std::numeric_limits<double>::infinity();
  for (const double candidate : values) {
    const auto covered = static_cast<size_t>(std::count_if(
        values.begin(), values.end(), [&](double value) { return value <= candidate; }));
    if (covered * 100 >= percent * values.size()) best = std::min(best, candidate);
  }
  return best;
}

TEST(Samples, PercentilesAreExactForAnyNumberOfValues) {
  std::mt19937_64 random(11);
  for (size_t count = 1; count <= 120; ++count) {
    Samples samples;
    std::vector<double> values;
    for (size_t i = 0; i < count; ++i) {
      values.push_back(static_cast<double>(random() % 50));  // with repetitions
      samples.Add(values.back());
    }
    for (const size_t percent : {1u, 50u, 90u, 99u, 100u}) {
      EXPECT_EQ(samples.Percentile(static_cast<double>(percent) / 100), Oracle(values, percent))
          << count << " values, p" << percent;
    }
  }
}

TEST(Samples, SummaryAgreesWithItsParts) {
  Samples samples;
  for (int i = 100; i >= 1; --i) samples.Add(i);
  const Samples::Summary summary = samples.Summarize();
  EXPECT_EQ(summary.count, 100u);
  EXPECT_DOUBLE_EQ(summary.mean, 50.5);
  EXPECT_EQ(summary.p50, 50);
  EXPECT_EQ(summary.p90, 90);
  EXPECT_EQ(summary.p99, 99);
  EXPECT_EQ(summary.max, 100);
  EXPECT_DOUBLE_EQ(samples.Median(), 50.5);
}

TEST(Samples, NothingIsZero) {
  const Samples samples;
  EXPECT_EQ(samples.Percentile(0.5), 0);
  EXPECT_EQ(samples.Median(), 0);
  EXPECT_EQ(samples.Summarize().count, 0u);
}

}  // namespace
}  // namespace skim
