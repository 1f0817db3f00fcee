#include "scheduler/answer_store.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <random>

namespace skim {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

using Tokens = std::vector<TokenId>;

const AnswerOwner kAnn = {"ann", ""}, kBob = {"bob", ""};
constexpr int64_t kRoomy = 64 << 20;

Tokens Random(std::mt19937* rng, int32_t size, int32_t vocabulary) {
  Tokens tokens(static_cast<size_t>(size));
  for (TokenId& token : tokens) token = static_cast<TokenId>((*rng)() % vocabulary);
  return tokens;
}

TEST(AnswerStore, GoesOnAsAnEarlierAnswerDid) {
  AnswerStore store(kRoomy);
  store.Add(kAnn, Tokens{1, 2, 3, 4, 5});
  EXPECT_THAT(store.Continue(kAnn, Tokens{9, 2, 3}, 2, 4, 8), ElementsAre(4, 5));
  EXPECT_THAT(store.Continue(kAnn, Tokens{9, 2, 3}, 2, 4, 1), ElementsAre(4));
  EXPECT_THAT(store.Continue(kAnn, Tokens{9, 3}, 2, 4, 8), IsEmpty());
  EXPECT_THAT(store.Continue(kAnn, Tokens{3}, 1, 4, 8), IsEmpty());
  EXPECT_EQ(store.lookups(), 4);
  EXPECT_EQ(store.hits(), 2);
}

TEST(AnswerStore, EndsWithTheAnswerAndDoesNotReachIntoTheNext) {
  AnswerStore store(kRoomy);
  store.Add(kAnn, Tokens{1, 2, 3});
  store.Add(kAnn, Tokens{4, 5, 6});
  EXPECT_THAT(store.Continue(kAnn, Tokens{1, 2}, 2, 4, 8), ElementsAre(3));
  EXPECT_THAT(store.Continue(kAnn, Tokens{2, 3}, 2, 4, 8), IsEmpty());
  EXPECT_THAT(store.Continue(kAnn, Tokens{3, 4}, 2, 4, 8), IsEmpty());
}

TEST(AnswerStore, PrefersTheLongestNgramThenTheLatest) {
  AnswerStore store(kRoomy);
  store.Add(kAnn, Tokens{7, 1, 2, 5});
  store.Add(kAnn, Tokens{8, 1, 2, 6});
  EXPECT_THAT(store.Continue(kAnn, Tokens{7, 1, 2}, 2, 4, 1), ElementsAre(5));
  EXPECT_THAT(store.Continue(kAnn, Tokens{7, 1, 2}, 2, 2, 1), ElementsAre(6));
  EXPECT_THAT(store.Continue(kAnn, Tokens{9, 1, 2}, 3, 4, 1), IsEmpty());
}

// What one was answered is nobody else's, be it another tenant or another salt.
TEST(AnswerStore, OwnersNeverSeeEachOther) {
  AnswerStore store(kRoomy);
  std::mt19937 rng(1);
  const AnswerOwner owners[] = {{"ann", ""}, {"ann", "b"}, {"annb", ""}, {"", "annb"}, {"", ""}};
  std::map<AnswerOwner, Tokens> own;
  for (const AnswerOwner& owner : owners) {
    own[owner] = Random(&rng, 300, 1000);
    store.Add(owner, own[owner]);
  }
  for (const AnswerOwner& asking : owners) {
    for (const AnswerOwner& other : owners) {
      for (int32_t end = 4; end < 300; ++end) {
        const auto text = std::span<const TokenId>(own[other]).first(end);
        const Tokens told = store.Continue(asking, text, 3, 4, 1);
        if (asking == other) {
          ASSERT_THAT(told, ElementsAre(own[other][end]));
        } else {
          ASSERT_THAT(told, IsEmpty());
        }
      }
    }
  }
}

// Where nothing has been forgotten it says what a search of all answers says.
TEST(AnswerStore, AgreesWithASearchOfAllAnswers) {
  for (uint32_t seed = 1; seed <= 30; ++seed) {
    std::mt19937 rng(seed);
    const int32_t vocabulary = 2 + static_cast<int32_t>(rng() % 5);
    AnswerStore store(kRoomy);
    std::vector<Tokens> answers;
    for (int i = 0; i < 40; ++i) {
      const int32_t min = 2 + static_cast<int32_t>(rng() % 2);
      const int32_t max = min + static_cast<int32_t>(rng() % 2);
      const Tokens text = Random(&rng, static_cast<int32_t>(rng() % 8), vocabulary);
      Tokens expected;
      for (int32_t n = std::min<int32_t>(max, std::ssize(text)); n >= min; --n) {
        for (auto answer = answers.rbegin(); answer != answers.rend(); ++answer) {
          for (int32_t end = std::ssize(*answer) - 1; end >= n && expected.empty(); --end) {
            if (!std::equal(text.end() - n, text.end(), answer->begin() + end - n)) continue;
            for (int32_t at = end; at < std::min<int32_t>(end + 5, std::ssize(*answer)); ++at) {
              expected.push_back((*answer)[at]);
            }
          }
        }
        if (!expected.empty()) break;
      }
      ASSERT_EQ(store.Continue(kAnn, text, min, max, 5), expected) << "seed " << seed;
      answers.push_back(Random(&rng, static_cast<int32_t>(rng() % 20), vocabulary));
      store.Add(kAnn, answers.back());
    }
  }
}

TEST(AnswerStore, KeepsItsBoundHoweverManyOwnersComeAndDropsTheIdlest) {
  constexpr int64_t kSlabs = 5;
  AnswerStore store(kSlabs * AnswerStore::kSlabBytes + 1);
  const auto named = [](int i) { return AnswerOwner{"tenant", std::to_string(i)}; };
  for (int i = 0; i < 200; ++i) {
    store.Add(named(i), Tokens{i, i + 1, i + 2, i + 3});
    // The first one is never idle for long.
    EXPECT_THAT(store.Continue(named(0), Tokens{0, 1}, 2, 4, 1), ElementsAre(2));
    EXPECT_LE(store.bytes(), kSlabs * AnswerStore::kSlabBytes);
    EXPECT_LE(store.owners(), kSlabs);
  }
  EXPECT_EQ(store.owners(), kSlabs);
  EXPECT_THAT(store.Continue(named(199), Tokens{199, 200}, 2, 4, 1), ElementsAre(201));
  EXPECT_THAT(store.Continue(named(150), Tokens{150, 151}, 2, 4, 1), IsEmpty());
}

// One of very many answers: the latest are kept, of no one more than his share.
TEST(AnswerStore, AnOwnerForgetsTheOldestAndLeavesRoomForOthers) {
  for (const int64_t slabs : {int64_t{1}, int64_t{3}, int64_t{AnswerStore::kOwnerSlabs} + 2}) {
    AnswerStore store(slabs * AnswerStore::kSlabBytes);
    std::mt19937 rng(2);
    store.Add(kBob, Tokens{1, 2, 3});
    Tokens last;
    for (int i = 0; i < 300; ++i) {
      last = Random(&rng, 1000, 100'000);
      store.Add(kAnn, last);
    }
    const int64_t share = std::min<int64_t>(slabs, AnswerStore::kOwnerSlabs);
    const bool bob = slabs > share;
    EXPECT_EQ(store.bytes(), (share + (bob ? 1 : 0)) * AnswerStore::kSlabBytes) << slabs;
    EXPECT_EQ(store.Continue(kBob, Tokens{1, 2}, 2, 4, 1).size(), bob ? 1u : 0u) << slabs;
    EXPECT_THAT(store.Continue(kAnn, std::span(last).first(500), 2, 4, 1), ElementsAre(last[500]));
  }
}

// Longer than a slab, and than all that one may have: the end of it is found at nearly every place.
TEST(AnswerStore, AnAnswerMayBeLongerThanASlab) {
  AnswerStore store(4 * AnswerStore::kSlabBytes);
  std::mt19937 rng(3);
  const Tokens answer = Random(&rng, 100'000, 1'000'000);
  store.Add(kAnn, answer);
  EXPECT_EQ(store.bytes(), 4 * AnswerStore::kSlabBytes);
  int32_t found = 0;
  for (int32_t end = 60'000; end < 100'000; ++end) {
    const Tokens told = store.Continue(kAnn, std::span(answer).first(end), 2, 4, 1);
    if (told.empty()) continue;
    ASSERT_EQ(told[0], answer[end]);
    ++found;
  }
  EXPECT_GT(found, 39'900);
}

TEST(AnswerStore, WithoutMemoryItKeepsNothing) {
  AnswerStore store(AnswerStore::kSlabBytes - 1);
  EXPECT_FALSE(store.keeps());
  store.Add(kAnn, Tokens{1, 2, 3});
  EXPECT_THAT(store.Continue(kAnn, Tokens{1, 2}, 2, 4, 1), IsEmpty());
  EXPECT_EQ(store.bytes(), 0);
}

}  // namespace
}  // namespace skim
