// Scores of keys and the choice of the best.
#include <algorithm>
#include <cmath>
#include <numeric>
#include <random>

#include "gmock/gmock.h"
#include "tests/kernels/op_suite.h"
#include "tests/kernels/paged_scene.h"

namespace skim {
namespace {

using ::testing::ElementsAre;
constexpr float kNone = -INFINITY;

void ExpectNear(std::span<const float> got, const std::vector<double>& want) {
  ASSERT_EQ(got.size(), want.size());
  for (size_t s = 0; s < want.size(); ++s) {
    ASSERT_NEAR(got[s], want[s], want[s] * kOpTolerance.attention + 1e-6) << "slot " << s;
  }
}

TEST_P(OpSuite, KeyScoresAreMeanSoftmaxProbabilitiesInEveryFormat) {
  for (KvShape shape : {KvShape{1, 1, 2, 16}, {6, 2, 64, 32}, {9, 3, 40, 64}}) {
    for (const KvFormat format : kAllKvFormats) {
      if (!ops().HasKvFormat(format)) continue;
      SCOPED_TRACE(testing::Message()
                   << "dim " << shape.head_dim << " " << std::string(KvFormatName(format)));
      shape.format = format;
      const KvSequence sequence = Shuffled(ExactSequence(3, shape, 97), 4),
                       other = ExactSequence(4, shape, 20);
      // Two sequences in a batch: one ends in a block that the other does not reach.
      const std::vector<KvWork> work = {{&sequence, Range(80, 97), 97}, {&other, {19}, 20}};
      PagedScene pages(&scene(), shape, 10);
      pages.Write(work, 97);
      pages.Attend(work);
      for (int window : {1, 17}) {
        const auto got = pages.ScoreKeys(work, {{0, window}, {1, 1}}, {});
        ExpectNear(got[0], ReferenceKeyScores(shape, work[0], window, Range(0, shape.heads)));
        ExpectNear(got[1], ReferenceKeyScores(shape, work[1], 1, Range(0, shape.heads)));
      }
    }
  }
}

TEST_P(OpSuite, KeyScoresGiveAnArrayToEachChosenHead) {
  const KvShape shape = {6, 2, 64, 32};
  const KvSequence sequence = RandomSequence(5, shape, 70);
  const KvWork work = {&sequence, Range(65, 70), 70};
  PagedScene pages(&scene(), shape, 4);
  pages.Write({work}, 70);
  pages.Attend({work});
  const std::vector<int32_t> heads = {4, 0, 5};
  const auto got = pages.ScoreKeys({work}, {{0, 2}}, heads)[0];
  for (size_t a = 0; a < heads.size(); ++a) {
    ExpectNear(std::span(got).subspan(a * 70, 70), ReferenceKeyScores(shape, work, 2, {heads[a]}));
  }
}

TEST_P(OpSuite, KeyScoresOfASequenceDoNotDependOnTheBatch) {
  const KvShape shape = {4, 2, 32, 16};
  const KvSequence a = RandomSequence(1, shape, 130), b = RandomSequence(2, shape, 30);
  const std::vector<KvWork> work = {{&a, {129}, 130}, {&b, Range(20, 30), 30}};
  PagedScene pages(&scene(), shape, 12);
  pages.Write(work, 130);
  pages.Attend(work);
  const auto together = pages.ScoreKeys(work, {{1, 4}, {0, 1}}, {});
  pages.Attend({work[0]});
  EXPECT_EQ(pages.ScoreKeys({work[0]}, {{0, 1}}, {})[0], together[1]);
}

TEST_P(OpSuite, KeyScoresAreZeroForHiddenSlots) {
  const KvShape shape = {2, 1, 64, 32};
  KvSequence sequence = RandomSequence(7, shape, 70);
  sequence.by_index = false;
  for (int s : {0, 17, 64}) sequence.positions[s] = INT32_MAX;
  const KvWork work = {&sequence, {68}, 70};
  PagedScene pages(&scene(), shape, 4);
  pages.Write({work}, 70);
  pages.Attend({work});
  const auto got = pages.ScoreKeys({work}, {{0, 1}}, {})[0];
  for (int s : {0, 17, 64, 69}) EXPECT_EQ(got[s], 0);
  EXPECT_GT(got[1], 0);
}

std::vector<float> Pool(OpScene& scene, PoolScoresArgs args, const std::vector<float>& scores) {
  args.scores = scene.Up(scores);
  args.pooled = scene.Room<float>(args.positions);
  scene.ops().PoolScores(args);
  return scene.Down(args.pooled, args.positions);
}

TEST_P(OpSuite, PoolScoresTakesTheMaximumOverOriginalPositions) {
  PoolScoresArgs args;
  args.slots = 5;
  args.slot_positions = scene().Up(std::vector<int32_t>{2, 3, 0, INT32_MAX, 9});
  args.positions = 10;
  args.radius = 1;
  EXPECT_THAT(Pool(scene(), args, {5, 1, 4, 7, 2}),
              ElementsAre(4, kNone, 5, 5, kNone, kNone, kNone, kNone, kNone, 2));
}

TEST_P(OpSuite, PoolScoresAddsArraysDividedByTheirMaxima) {
  PoolScoresArgs args;
  args.arrays = 3;
  args.normalize = true;
  args.slots = 3;
  args.positions = 3;
  EXPECT_THAT(Pool(scene(), args, {1, 2, 4, 0.5, 0.25, 0, 0, 0, 0}), ElementsAre(1.25f, 1, 1));
}

std::vector<int32_t> Top(OpScene& scene, const std::vector<float>& scores, int64_t count,
                         std::vector<IndexRange> forced = {}, std::vector<uint8_t> allowed = {}) {
  TopRowsArgs args;
  args.scores = scene.Up(scores);
  args.rows = static_cast<int64_t>(scores.size());
  args.allowed = allowed.empty() ? nullptr : scene.Up(allowed);
  args.forced = forced;
  args.count = count;
  args.out = scene.Room<int32_t>(count);
  scene.ops().TopRows(args);
  return scene.Down(args.out, count);
}

TEST_P(OpSuite, TopRowsTakesTheBestForcedOnesFirstAndForbiddenOnesNever) {
  EXPECT_THAT(Top(scene(), {1, 3, 2, 3, 3}, 2), ElementsAre(1, 3));
  EXPECT_THAT(Top(scene(), {-1, kNone, -2, std::nanf("")}, 3), ElementsAre(0, 1, 2));
  EXPECT_THAT(Top(scene(), {1, 2}, 0), ElementsAre());
  EXPECT_THAT(Top(scene(), {0, 9, 8, 7, 0}, 3, {{0, 1}, {4, 5}}), ElementsAre(0, 1, 4));
  EXPECT_THAT(Top(scene(), {0, 9, 8, 7, 0}, 2, {{0, 2}}, {0, 1, 1, 1, 0}), ElementsAre(1, 2));
}

TEST_P(OpSuite, TopRowsAgreesWithASortOnRandomScoresFullOfTies) {
  std::mt19937 random(1);
  for (int trial = 0; trial < 10; ++trial) {
    std::vector<float> scores(1 + random() % 700);
    for (float& x : scores) x = static_cast<float>(random() % 17) - 4;
    const auto count = static_cast<int64_t>(1 + random() % scores.size());
    std::vector<int32_t> order = Range(0, static_cast<int>(scores.size()));
    std::ranges::stable_sort(order, [&](int a, int b) { return scores[a] > scores[b]; });
    order.resize(count);
    std::ranges::sort(order);
    ASSERT_EQ(Top(scene(), scores, count), order);
  }
}

}  // namespace
}  // namespace skim
