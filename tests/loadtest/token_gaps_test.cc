#include "loadtest/token_gaps.h"

#include <gtest/gtest.h>

namespace skim {
namespace {

TEST(TokenGaps, AreTheWaitsBehindTheFirstMessage) {
  const std::vector<Micros> times = {5'000, 6'000, 9'000};
  const auto gaps = TokenGaps(times);
  ASSERT_EQ(gaps.size(), 2u);
  EXPECT_EQ(gaps[1].begin, 6'000);
  EXPECT_EQ(gaps[1].end, 9'000);
  EXPECT_DOUBLE_EQ(gaps[0].ms, 1);
  EXPECT_DOUBLE_EQ(gaps[1].ms, 3);
}

TEST(TokenGaps, TokensOfOneMessageShareTheWait) {
  const std::vector<Micros> times = {0, 0, 3'000, 3'000, 3'000};
  const auto gaps = TokenGaps(times);
  ASSERT_EQ(gaps.size(), 3u);  // the two of the first message did not wait for each other
  for (const TokenGap& gap : gaps) EXPECT_DOUBLE_EQ(gap.ms, 1);
}

TEST(TokenGaps, OfNoTokensAreNone) { EXPECT_TRUE(TokenGaps({}).empty()); }

}  // namespace
}  // namespace skim
