#include "scheduler/lookup_drafter.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <random>

namespace skim {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

TEST(LookupDrafter, ContinuesAsTheTextDidTheLastTimeItsEndStoodThere) {
  LookupDrafter drafter(2, 3);
  EXPECT_THAT(drafter.Propose(std::vector<TokenId>{1, 2, 3, 4, 9, 2, 3}, 2).tokens,
              ElementsAre(4, 9));
}

TEST(LookupDrafter, PrefersTheLongestNgramThenTheLatest) {
  LookupDrafter drafter(1, 3);
  // After "1 2" first came 5, later 6; after "7 1 2" came 5.
  EXPECT_THAT(drafter.Propose(std::vector<TokenId>{7, 1, 2, 5, 8, 1, 2, 6, 7, 1, 2}, 1).tokens,
              ElementsAre(5));
  LookupDrafter pairs(1, 2);
  EXPECT_THAT(pairs.Propose(std::vector<TokenId>{7, 1, 2, 5, 8, 1, 2, 6, 7, 1, 2}, 1).tokens,
              ElementsAre(6));
}

TEST(LookupDrafter, ProposesNothingForWhatStandsNowhere) {
  LookupDrafter drafter(2, 4);
  EXPECT_THAT(drafter.Propose(std::vector<TokenId>{1}, 4).tokens, IsEmpty());
  EXPECT_THAT(drafter.Propose(std::vector<TokenId>{1, 2, 3, 4, 5}, 4).tokens, IsEmpty());
}

TEST(LookupDrafter, GoesOnWithItselfWhereTheTextRepeats) {
  LookupDrafter drafter(2, 3);
  EXPECT_THAT(drafter.Propose(std::vector<TokenId>{1, 2, 1, 2, 1, 2}, 5).tokens,
              ElementsAre(1, 2, 1, 2, 1));
}

// Called again and again on a growing text, it says what a search of the whole text says.
TEST(LookupDrafter, AgreesWithASearchOfTheWholeText) {
  for (uint32_t seed = 1; seed <= 50; ++seed) {
    std::mt19937 rng(seed);
    const int32_t min_ngram = 1 + static_cast<int32_t>(rng() % 3);
    const int32_t max_ngram = min_ngram + static_cast<int32_t>(rng() % 3);
    LookupDrafter drafter(min_ngram, max_ngram);
    std::vector<TokenId> text;
    while (text.size() < 120) {
      for (uint32_t more = 1 + rng() % 4; more > 0; --more) {
        text.push_back(static_cast<TokenId>(rng() % 4));
      }
      std::vector<TokenId> expected;
      const auto length = static_cast<int32_t>(text.size());
      for (int32_t n = std::min(max_ngram, length - 1); n >= min_ngram && expected.empty(); --n) {
        for (int32_t end = length - 1; end >= n && expected.empty(); --end) {
          if (!std::equal(text.end() - n, text.end(), text.begin() + end - n)) continue;
          for (int32_t i = 0; i < 6; ++i) {
            expected.push_back(end + i < length ? text[end + i] : expected[end + i - length]);
          }
        }
      }
      ASSERT_EQ(drafter.Propose(text, 6).tokens, expected) << "seed " << seed;
    }
  }
}

}  // namespace
}  // namespace skim
