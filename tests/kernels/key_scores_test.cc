#include "kernels/cpu/key_scores.h"

#include <algorithm>
#include <climits>
#include <cmath>
#include <numeric>
#include <random>
#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kv_scene.h"

namespace skim {
namespace {

using ::testing::ElementsAre;

std::vector<int32_t> Range(int begin, int end) {
  std::vector<int32_t> range(end - begin);
  std::iota(range.begin(), range.end(), begin);
  return range;
}

class KeyScoresOn : public testing::TestWithParam<Isa> {};

TEST_P(KeyScoresOn, AreMeanSoftmaxProbabilitiesForEveryHeadShapeAndWindow) {
  for (const KvShape shape : {KvShape{1, 1, 2, 16}, {6, 2, 64, 32}, {8, 1, 80, 64}, {9, 3, 64, 32}}) {
    const KvSequence sequence = Shuffled(RandomSequence(3, shape, 197), 4);
    const KvWork work = {&sequence, Range(160, 197), 197};
    for (int window : {1, 3, 16, 37}) {
      const auto got = RunKeyScores(GetParam(), 2, shape, {work}, {{0, window}}, {})[0];
      const auto want = ReferenceKeyScores(shape, work, window, Range(0, shape.heads));
      for (int s = 0; s < work.slots; ++s) {
        // Attention sums probabilities rounded to bf16.
        ASSERT_NEAR(got[s], want[s], want[s] * 0x1p-7 + 1e-6) << "slot " << s;
      }
      EXPECT_NEAR(std::accumulate(got.begin(), got.end(), 0.0), 1, 0.01);
    }
  }
}

TEST_P(KeyScoresOn, GiveAnArrayToEachChosenHead) {
  const KvShape shape = {6, 2, 64, 32};
  const KvSequence sequence = RandomSequence(5, shape, 130);
  const KvWork work = {&sequence, Range(120, 130), 130};
  const std::vector<int32_t> heads = {4, 0, 5};
  const auto got = RunKeyScores(GetParam(), 3, shape, {work}, {{0, 2}}, heads)[0];
  for (size_t a = 0; a < heads.size(); ++a) {
    const auto want = ReferenceKeyScores(shape, work, 2, {heads[a]});
    for (int s = 0; s < work.slots; ++s) {
      ASSERT_NEAR(got[a * work.slots + s], want[s], want[s] * 0x1p-7 + 1e-6);
    }
  }
}

TEST_P(KeyScoresOn, GiveASequenceTheSameBitsInAnyBatchOnAnyThreads) {
  KvShape shape = {6, 2, 64, 32};
  const KvSequence a = RandomSequence(1, shape, 300), b = RandomSequence(2, shape, 90);
  const KvWork decode = {&a, {299}, 300}, chunk = {&b, Range(50, 90), 90};
  const auto alone_a = RunKeyScores(GetParam(), 1, shape, {decode}, {{0, 1}}, {})[0];
  const auto alone_b = RunKeyScores(GetParam(), 1, shape, {chunk}, {{0, 4}}, {})[0];
  for (int page_tokens : {16, 64}) {
    shape.page_tokens = page_tokens;
    for (int threads : {1, 2, 5}) {
      const auto together = RunKeyScores(GetParam(), threads, shape, {chunk, decode, decode},
                                         {{1, 1}, {0, 4}}, {}, 9);
      EXPECT_EQ(together[0], alone_a);
      EXPECT_EQ(together[1], alone_b);
    }
  }
}

TEST_P(KeyScoresOn, AreZeroForHiddenSlots) {
  const KvShape shape = {2, 1, 64, 32};
  KvSequence sequence = RandomSequence(7, shape, 100);
  sequence.by_index = false;
  for (int s : {0, 17, 64, 99}) sequence.positions[s] = INT32_MAX;
  const auto got =
      RunKeyScores(GetParam(), 2, shape, {{&sequence, {98}, 100}}, {{0, 1}}, {})[0];
  for (int s : {0, 17, 64, 99}) EXPECT_EQ(got[s], 0);
  EXPECT_GT(got[1], 0);
}

INSTANTIATE_TEST_SUITE_P(Paths, KeyScoresOn, testing::ValuesIn(SupportedIsas()),
                         [](const auto& info) { return std::string(IsaName(info.param)); });

constexpr float kNone = -INFINITY;

std::vector<float> Pool(PoolScoresArgs args, const std::vector<float>& scores) {
  TokenChoiceScratch scratch;
  std::vector<float> pooled(args.positions, std::nanf(""));
  args.scores = scores.data();
  args.pooled = pooled.data();
  CpuPoolScores(scratch, args);
  return pooled;
}

TEST(PoolScores, TakesTheLargestOfNeighbouringPositionsNotSlots) {
  const std::vector<int32_t> positions = {9, 2, 4, 3, 0};
  PoolScoresArgs args;
  args.slots = 5;
  args.slot_positions = positions.data();
  args.positions = 10;
  args.radius = 1;
  EXPECT_THAT(Pool(args, {1, 2, 3, 5, 4}),
              ElementsAre(4, kNone, 5, 5, 5, kNone, kNone, kNone, kNone, 1));
}

TEST(PoolScores, AddsArraysDividedByTheirMaxima) {
  PoolScoresArgs args;
  args.arrays = 2;
  args.normalize = true;
  args.slots = 3;
  args.positions = 3;
  EXPECT_THAT(Pool(args, {1, 2, 4, 0.5, 0.25, 0}), ElementsAre(1.25f, 1, 1));
  EXPECT_THAT(Pool(args, {1, 2, 4, 0, 0, 0}), ElementsAre(0.25f, 0.5f, 1));
}

TEST(PoolScores, LeavesHiddenSlotsOut) {
  const std::vector<int32_t> positions = {0, INT32_MAX, 2};
  PoolScoresArgs args;
  args.slots = 3;
  args.slot_positions = positions.data();
  args.positions = 3;
  args.radius = 3;
  EXPECT_THAT(Pool(args, {1, 7, 2}), ElementsAre(2, kNone, 2));
}

std::vector<int32_t> Top(const std::vector<float>& scores, int64_t count,
                         std::vector<IndexRange> forced = {}, std::vector<uint8_t> allowed = {}) {
  TokenChoiceScratch scratch;
  std::vector<int32_t> out(count);
  TopRowsArgs args;
  args.scores = scores.data();
  args.rows = static_cast<int64_t>(scores.size());
  args.allowed = allowed.empty() ? nullptr : allowed.data();
  args.forced = forced;
  args.count = count;
  args.out = out.data();
  CpuTopRows(scratch, args);
  return out;
}

TEST(TopRows, TakesTheBestAndOfEqualScoresTheLowerRow) {
  EXPECT_THAT(Top({1, 3, 2, 3, 3}, 2), ElementsAre(1, 3));
  EXPECT_THAT(Top({0, 0, 0, 0}, 3), ElementsAre(0, 1, 2));
  EXPECT_THAT(Top({-1, kNone, -2, std::nanf("")}, 2), ElementsAre(0, 2));
  EXPECT_THAT(Top({1, 2}, 0), ElementsAre());
}

TEST(TopRows, TakesForcedRowsFirstAndForbiddenOnesNever) {
  EXPECT_THAT(Top({0, 9, 8, 7, 0}, 3, {{0, 1}, {4, 5}}), ElementsAre(0, 1, 4));
  EXPECT_THAT(Top({0, 9, 8, 7, 0}, 2, {{0, 2}}, {0, 1, 1, 1, 0}), ElementsAre(1, 2));
}

TEST(TopRows, AgreesWithASortOnRandomScoresFullOfTies) {
  std::mt19937 random(1);
  for (int trial = 0; trial < 200; ++trial) {
    std::vector<float> scores(1 + random() % 300);
    for (float& x : scores) x = static_cast<float>(random() % 17) - 4;
    const auto count = static_cast<int64_t>(random() % (scores.size() + 1));
    std::vector<int32_t> order = Range(0, static_cast<int>(scores.size()));
    std::ranges::stable_sort(order, [&](int a, int b) { return scores[a] > scores[b]; });
    order.resize(count);
    std::ranges::sort(order);
    ASSERT_EQ(Top(scores, count), order);
  }
}

}  // namespace
}  // namespace skim
