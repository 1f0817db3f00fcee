#include <cmath>
#include <numeric>
#include <ostream>
#include <string>

#include "gtest/gtest.h"
#include "kv_scene.h"

namespace skim {
namespace {

std::vector<int32_t> Range(int begin, int end) {
  std::vector<int32_t> range(end - begin);
  std::iota(range.begin(), range.end(), begin);
  return range;
}

// Both roundings to bf16 (probabilities, output) err by at most 2^-8 of what they round. With
// scales the sum takes the probabilities unrounded.
void ExpectNear(const KvShape& shape, const KvWork& work, int row, const AttentionResult& got) {
  const AttentionReference want = ReferenceAttention(shape, work, row);
  const double lse_error = shape.format == KvFormat::kBf16 ? 0x1p-8 : 1e-4;
  for (size_t i = 0; i < want.out.size(); ++i) {
    ASSERT_NEAR(ToFloat(got.out[i]), want.out[i], 0x1p-7 * want.magnitude[i] + 1e-6)
        << "row " << row << " column " << i;
  }
  for (size_t h = 0; h < want.lse.size(); ++h) {
    ASSERT_NEAR(got.lse[h], want.lse[h], lse_error) << "row " << row << " head " << h;
  }
}

void ExpectSameBits(const AttentionResult& a, const AttentionResult& b, const std::string& where) {
  for (size_t i = 0; i < a.out.size(); ++i) {
    ASSERT_EQ(a.out[i].bits, b.out[i].bits) << where << ", column " << i;
  }
  ASSERT_EQ(a.lse, b.lse) << where;
}

class AttentionOn : public testing::TestWithParam<std::tuple<Isa, KvFormat>> {
 protected:
  Isa isa() const { return std::get<0>(GetParam()); }
  KvFormat format() const { return std::get<1>(GetParam()); }
  // Every position computed alone, as decoding would.
  std::vector<AttentionResult> OneByOne(const KvShape& shape, const KvSequence& sequence) {
    std::vector<AttentionResult> results;
    for (int t = 0; t < static_cast<int>(sequence.positions.size()); ++t) {
      results.push_back(RunAttention(isa(), 1, shape, {{&sequence, {t}, t + 1}})[0]);
    }
    return results;
  }
};

TEST_P(AttentionOn, AgreesWithDoublePrecisionForEveryHeadShape) {
  for (int group : {1, 3, 4, 8}) {
    for (int head_dim : {2, 32, 64, 72, 80, 128, 256}) {
      const KvShape shape = {2 * group, 2, head_dim, 32, format()};
      const KvSequence sequence = RandomSequence(group * 1000 + head_dim, shape, 131);
      const KvWork work = {&sequence, Range(100, 131), 131};
      const auto results = RunAttention(isa(), 2, shape, {work});
      for (int r : {0, 1, 17, 30}) {
        SCOPED_TRACE(testing::Message() << "group " << group << " head_dim " << head_dim);
        ExpectNear(shape, work, r, results[r]);
      }
    }
  }
}

TEST_P(AttentionOn, AgreesWithDoublePrecisionOverLongContexts) {
  const KvShape shape = {6, 2, 64, 16, format()};
  const KvSequence sequence = RandomSequence(5, shape, 1301);
  const KvWork decode = {&sequence, {1300}, 1301}, chunk = {&sequence, Range(1230, 1301), 1301};
  ExpectNear(shape, decode, 0, RunAttention(isa(), 2, shape, {decode})[0]);
  const auto results = RunAttention(isa(), 2, shape, {chunk});
  for (int r : {0, 33, 70}) ExpectNear(shape, chunk, r, results[r]);
}

// The bound is for the worst case; what to expect of numbers like these is the second figure.
TEST_P(AttentionOn, IsAsCloseToWhatWasNotQuantisedAsTheFormatPromises) {
  const KvShape shape = {6, 2, 64, 32, format()};
  const double expected[kKvFormats] = {0x1p-8, 0.01, 0.04};
  double squares = 0, error_squares = 0;
  for (uint32_t seed : {31, 32, 33}) {
    const KvSequence sequence = RandomSequence(seed, shape, 300);
    const KvWork work = {&sequence, Range(240, 300), 300};
    const auto results = RunAttention(isa(), 2, shape, {work});
    for (int r : {0, 20, 59}) {
      std::vector<double> bound;
      const AttentionReference exact = ExactAttention(shape, work, r, &bound);
      for (size_t i = 0; i < exact.out.size(); ++i) {
        const double error = ToFloat(results[r].out[i]) - exact.out[i];
        ASSERT_LE(std::abs(error), bound[i] + 0x1p-7 * exact.magnitude[i] + 1e-6)
            << "row " << r << " column " << i;
        squares += exact.out[i] * exact.out[i];
        error_squares += error * error;
      }
    }
  }
  EXPECT_LE(std::sqrt(error_squares / squares), expected[static_cast<int>(format())]);
}

TEST_P(AttentionOn, GivesARowTheSameBitsUnderAnyChunkingPageSizeAndThreadCount) {
  KvShape shape = {6, 2, 64, 32, format()};
  const KvSequence sequence = RandomSequence(7, shape, 257);
  const auto expected = OneByOne(shape, sequence);
  for (int page_tokens : {16, 32, 64}) {
    shape.page_tokens = page_tokens;
    for (int chunk : {7, 64, 257}) {
      for (int threads : {1, 2, 3}) {
        for (int begin = 0; begin < 257; begin += chunk) {
          const int end = std::min(begin + chunk, 257);
          const auto results =
              RunAttention(isa(), threads, shape, {{&sequence, Range(begin, end), end}});
          for (int t = begin; t < end; ++t) {
            ExpectSameBits(results[t - begin], expected[t],
                           "pages of " + std::to_string(page_tokens) + ", chunk " +
                               std::to_string(chunk) + ", threads " + std::to_string(threads) +
                               ", position " + std::to_string(t));
          }
        }
      }
    }
  }
}

TEST_P(AttentionOn, GivesARowTheSameBitsInAnyBatch) {
  const KvShape shape = {4, 1, 80, 16, format()};
  const KvSequence a = RandomSequence(1, shape, 90), b = RandomSequence(2, shape, 700),
                   c = RandomSequence(3, shape, 33);
  const KvWork decode_a = {&a, {89}, 90}, chunk_b = {&b, Range(600, 700), 700},
               verify_c = {&c, Range(28, 33), 33};
  const auto alone_a = RunAttention(isa(), 1, shape, {decode_a});
  const auto alone_b = RunAttention(isa(), 1, shape, {chunk_b});
  const auto alone_c = RunAttention(isa(), 1, shape, {verify_c});
  for (int threads : {1, 2, 3, 5}) {
    const auto together =
        RunAttention(isa(), threads, shape, {decode_a, chunk_b, verify_c}, 9);
    const std::string where = std::to_string(threads) + " threads";
    ExpectSameBits(together[0], alone_a[0], where);
    for (int r = 0; r < 100; ++r) ExpectSameBits(together[1 + r], alone_b[r], where);
    for (int r = 0; r < 5; ++r) ExpectSameBits(together[101 + r], alone_c[r], where);
  }
}

// A long sequence is shared between threads in spans, also more threads than tiles.
TEST_P(AttentionOn, SplitsOneLongSequenceOverThreadsWithoutATrace) {
  for (int tokens : {512, 513, 1024, 2049}) {
    const KvShape shape = {3, 1, 64, 64, format()};
    const KvSequence sequence = RandomSequence(tokens, shape, tokens);
    for (int rows : {1, 5}) {
      const KvWork work = {&sequence, Range(tokens - rows, tokens), tokens};
      const auto expected = RunAttention(isa(), 1, shape, {work});
      for (int threads : {2, 3, 4, 7, 16}) {
        const auto results = RunAttention(isa(), threads, shape, {work, work});
        for (int r = 0; r < 2 * rows; ++r) {
          ExpectSameBits(
              results[r], expected[r % rows],
              std::to_string(tokens) + " tokens, " + std::to_string(threads) + " threads");
        }
      }
    }
  }
}

TEST_P(AttentionOn, MasksByPositionWhateverTheOrderOfSlots) {
  const KvShape shape = {6, 2, 64, 16, format()};
  const KvSequence ordered = RandomSequence(11, shape, 700);
  const KvSequence shuffled = Shuffled(ordered, 12);
  // Low positions see no slot at all in most blocks.
  const KvWork work = {&shuffled, {0, 1, 5, 64, 300, 301, 698, 699}, 700};
  const auto results = RunAttention(isa(), 2, shape, {work});
  for (int r = 0; r < 8; ++r) {
    ExpectNear(shape, work, r, results[r]);
    const KvWork alone = {&shuffled, {work.positions[r]}, 700};
    ExpectSameBits(RunAttention(isa(), 3, shape, {alone})[0], results[r], "alone");
  }
}

TEST_P(AttentionOn, TreatsNamedPositionsLikeImpliedOnes) {
  const KvShape shape = {6, 2, 64, 32, format()};
  const KvSequence implied = RandomSequence(13, shape, 200);
  KvSequence named = implied;
  named.by_index = false;
  const auto a = RunAttention(isa(), 2, shape, {{&implied, Range(150, 200), 200}});
  const auto b = RunAttention(isa(), 2, shape, {{&named, Range(150, 200), 200}});
  for (int r = 0; r < 50; ++r) ExpectSameBits(a[r], b[r], "row " + std::to_string(r));
}

TEST_P(AttentionOn, GivesZerosToARowThatSeesNothing) {
  const KvShape shape = {4, 2, 64, 32, format()};
  KvSequence sequence = RandomSequence(17, shape, 70);
  for (int32_t& position : sequence.positions) position += 10;
  sequence.by_index = false;
  const auto results = RunAttention(isa(), 1, shape, {{&sequence, {5, 30}, 70}});
  for (Bf16 x : results[0].out) EXPECT_EQ(x.bits, 0);
  for (float lse : results[0].lse) EXPECT_EQ(lse, -INFINITY);
  for (Bf16 x : results[1].out) EXPECT_TRUE(std::isfinite(ToFloat(x)));
}

TEST_P(AttentionOn, KeepsItsPrecisionWhenOneKeyDominates) {
  const KvShape shape = {1, 1, 64, 32, format()};
  KvSequence sequence = RandomSequence(19, shape, 600);
  // Scores of about +-3000: everything but the best key underflows.
  for (auto& query : sequence.queries) {
    for (Bf16& x : query) x = ToBf16(ToFloat(x) * 400);
  }
  for (const KvWork& work : {KvWork{&sequence, {599}, 600}, KvWork{&sequence, {63}, 64}}) {
    const AttentionResult got = RunAttention(isa(), 2, shape, {work})[0];
    const AttentionReference want = ReferenceAttention(shape, work, 0);
    for (int d = 0; d < 64; ++d) {
      EXPECT_NEAR(ToFloat(got.out[d]), want.out[d], 0.02 * want.magnitude[d] + 1e-3);
    }
    EXPECT_NEAR(got.lse[0], want.lse[0], std::abs(want.lse[0]) * 1e-5);
  }
}

TEST_P(AttentionOn, KeepsTheNanOfARowToItself) {
  const KvShape shape = {3, 1, 64, 32, format()};
  KvSequence sequence = RandomSequence(23, shape, 100);
  const auto clean = RunAttention(isa(), 1, shape, {{&sequence, Range(80, 100), 100}});
  sequence.queries[90][0] = Bf16{0x7fc0};
  const auto results = RunAttention(isa(), 1, shape, {{&sequence, Range(80, 100), 100}});
  EXPECT_TRUE(std::isnan(ToFloat(results[10].out[0])));
  for (int r : {0, 9, 11, 19}) ExpectSameBits(results[r], clean[r], "row " + std::to_string(r));
}

INSTANTIATE_TEST_SUITE_P(Paths, AttentionOn,
                         testing::Combine(testing::ValuesIn(SupportedIsas()),
                                          testing::Values(KvFormat::kBf16, KvFormat::kInt8,
                                                          KvFormat::kFp8)),
                         [](const auto& info) {
                           return std::string(IsaName(std::get<0>(info.param))) + "_" +
                                  std::string(KvFormatName(std::get<1>(info.param)));
                         });

}  // namespace
}  // namespace skim
