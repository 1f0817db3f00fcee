#include "loadtest/length_distribution.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

namespace skim {
namespace {

std::vector<int64_t> Draws(const std::string& text, int count, uint64_t seed = 7) {
  const auto distribution = LengthDistribution::Parse(text);
  EXPECT_TRUE(distribution.ok()) << distribution.status();
  std::mt19937_64 random(seed);
  std::vector<int64_t> lengths;
  for (int i = 0; i < count; ++i) lengths.push_back(distribution->Draw(&random));
  return lengths;
}

TEST(LengthDistribution, FixedIsAlwaysTheSame) {
  for (const int64_t length : Draws("128", 100)) EXPECT_EQ(length, 128);
}

TEST(LengthDistribution, UniformReachesBothEndsAndNothingElse) {
  const std::vector<int64_t> lengths = Draws("uniform:3:7", 2000);
  EXPECT_EQ(*std::min_element(lengths.begin(), lengths.end()), 3);
  EXPECT_EQ(*std::max_element(lengths.begin(), lengths.end()), 7);
  for (int64_t value = 3; value <= 7; ++value) {
    // 400 expected; 5 standard deviations are 90.
    EXPECT_NEAR(std::count(lengths.begin(), lengths.end(), value), 400, 90) << value;
  }
}

TEST(LengthDistribution, LognormalHasItsMedianItsSpreadAndItsCut) {
  std::vector<int64_t> lengths = Draws("lognormal:200:0.8:2000", 20'000);
  std::sort(lengths.begin(), lengths.end());
  EXPECT_NEAR(static_cast<double>(lengths[10'000]), 200, 10);
  // One sigma above the median is the 84.13th percentile.
  EXPECT_NEAR(static_cast<double>(lengths[16'827]), 200 * std::exp(0.8), 25);
  EXPECT_LE(lengths.back(), 2000);
  EXPECT_GE(lengths.front(), 1);
}

TEST(LengthDistribution, LognormalWithHugeSigmaStaysInRange) {
  for (const int64_t length : Draws("lognormal:10:300:500", 1000)) {
    EXPECT_GE(length, 1);
    EXPECT_LE(length, 500);
  }
}

TEST(LengthDistribution, TheSameSeedGivesTheSameLengths) {
  for (const char* text : {"uniform:1:1000", "lognormal:100:1:1000"}) {
    EXPECT_EQ(Draws(text, 100, 5), Draws(text, 100, 5));
    EXPECT_NE(Draws(text, 100, 5), Draws(text, 100, 6));
  }
}

TEST(LengthDistribution, RefusesWhatItCannotRead) {
  for (const char* text :
       {"", "0", "-3", "1.5", "99999999999", "uniform", "uniform:5", "uniform:9:5", "uniform:0:5",
        "uniform:1:2:3", "lognormal:10:1", "lognormal:10:-1:20", "lognormal:10:nan:20",
        "lognormal:30:1:20", "gauss:1:2", "5 "}) {
    const auto parsed = LengthDistribution::Parse(text);
    const bool spaces_are_fine = std::string(text) == "5 ";
    EXPECT_EQ(parsed.ok(), spaces_are_fine) << "'" << text << "'";
  }
}

}  // namespace
}  // namespace skim
