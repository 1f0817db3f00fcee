// Attention, and what RopeAndWriteKv makes of queries, keys and values.
#include <cmath>

#include "tests/kernels/op_suite.h"
#include "tests/kernels/paged_scene.h"

namespace skim {
namespace {

void ExpectNear(const KvShape& shape, const KvWork& work, int row, const AttentionResult& got) {
  const AttentionReference want = ReferenceAttention(shape, work, row);
  for (size_t i = 0; i < want.out.size(); ++i) {
    ASSERT_NEAR(ToFloat(got.out[i]), want.out[i], kOpTolerance.attention * want.magnitude[i] + 1e-6)
        << "row " << row << " column " << i;
  }
  for (size_t h = 0; h < want.lse.size(); ++h) {
    ASSERT_NEAR(got.lse[h], want.lse[h], kOpTolerance.log_sum_exp) << "head " << h;
  }
}

TEST_P(OpSuite, AttentionAgreesWithDoublePrecisionInEveryFormat) {
  for (KvShape shape : {KvShape{1, 1, 2, 16}, KvShape{3, 1, 72, 32}, KvShape{4, 4, 32, 64},
                        KvShape{18, 2, 64, 16}, KvShape{2, 1, 256, 32}}) {
    for (const KvFormat format : kAllKvFormats) {
      if (!ops().HasKvFormat(format)) continue;
      shape.format = format;
      const KvSequence sequence = ExactSequence(shape.head_dim, shape, 85);
      const KvWork work = {&sequence, {0, 15, 63, 64, 84}, 85};
      PagedScene pages(&scene(), shape, 8);
      pages.Write({work}, 33);
      const auto results = pages.Attend({work});
      for (int r = 0; r < 5; ++r) {
        SCOPED_TRACE(testing::Message() << "heads " << shape.heads << " dim " << shape.head_dim
                                        << " " << std::string(KvFormatName(format)));
        ExpectNear(shape, work, r, results[r]);
      }
    }
  }
}

void ExpectSameBits(const AttentionResult& want, const AttentionResult& got) {
  ASSERT_EQ(want.out.size(), got.out.size());
  for (size_t i = 0; i < want.out.size(); ++i) {
    ASSERT_EQ(want.out[i].bits, got.out[i].bits) << "column " << i;
  }
  EXPECT_EQ(want.lse, got.lse);
}

TEST_P(OpSuite, AttentionOfARowDoesNotDependOnTheBatch) {
  const KvShape shape = {4, 2, 32, 16};
  const KvSequence a = RandomSequence(1, shape, 70), b = RandomSequence(2, shape, 131),
                   c = RandomSequence(3, shape, 1);
  const std::vector<KvWork> work = {{&a, {69}, 70}, {&b, Range(120, 131), 131}, {&c, {0}, 1}};
  PagedScene pages(&scene(), shape, 20);
  pages.Write(work, 1000);
  const auto together = pages.Attend(work);
  const auto alone = pages.Attend({work[0]});
  ExpectSameBits(alone[0], together[0]);
  for (int r : {0, 10}) ExpectNear(shape, work[1], r, together[1 + r]);
  ExpectNear(shape, work[2], 0, together[12]);
}

// A backend may take neighbouring rows and the heads that share a KV head together.
TEST_P(OpSuite, AttentionOfARowDoesNotDependOnItsNeighbours) {
  for (const KvFormat format : kAllKvFormats) {
    if (!ops().HasKvFormat(format)) continue;
    SCOPED_TRACE(std::string(KvFormatName(format)));
    const KvShape shape = {6, 2, 40, 16, format};
    const KvSequence sequence = RandomSequence(5, shape, 150);
    PagedScene pages(&scene(), shape, 10);
    pages.Write({{&sequence, {}, 150}}, 150);
    const auto together = pages.Attend({{&sequence, Range(120, 150), 150}});
    // With and without slots after its own.
    for (const int row : {0, 21, 29}) {
      for (const int slots : {121 + row, 150}) {
        SCOPED_TRACE(testing::Message() << "row " << row << ", " << slots << " slots");
        ExpectSameBits(together[row], pages.Attend({{&sequence, {120 + row}, slots}})[0]);
      }
    }
  }
}

TEST_P(OpSuite, AttentionKeepsTheNanOfARowToItself) {
  const KvShape shape = {6, 2, 32, 16};
  KvSequence sequence = RandomSequence(6, shape, 100);
  const KvWork work = {&sequence, Range(80, 100), 100};
  PagedScene pages(&scene(), shape, 7);
  pages.Write({work}, 100);
  const auto clean = pages.Attend({work});
  sequence.queries[90][0] = Bf16{0x7fc0};
  const auto results = pages.Attend({work});
  EXPECT_TRUE(std::isnan(ToFloat(results[10].out[0])));
  for (int r : {0, 9, 11, 19}) ExpectSameBits(clean[r], results[r]);
}

// Long enough that a backend may cut the slots into parts, which it need not do for many rows.
TEST_P(OpSuite, AttentionOfALongSequenceDoesNotDependOnTheNumberOfRows) {
  const KvShape shape = {8, 8, 8, 64};
  const KvSequence sequence = RandomSequence(4, shape, 530);
  const KvWork few = {&sequence, {529}, 530}, many = {&sequence, Range(498, 530), 530};
  const std::vector<KvWork> copies(32, few);
  PagedScene pages(&scene(), shape, 12);
  pages.Write(copies, 530);
  const auto alone = pages.Attend({few}), neighbours = pages.Attend({many});
  ExpectSameBits(alone[0], neighbours[31]);
  ExpectSameBits(alone[0], pages.Attend(copies)[31]);
  ExpectNear(shape, few, 0, alone[0]);
  for (int r : {0, 31}) ExpectNear(shape, many, r, neighbours[r]);
}

TEST_P(OpSuite, AttentionMasksByPositionWhateverTheOrderOfSlots) {
  const KvShape shape = {4, 2, 32, 16};
  const KvSequence ordered = RandomSequence(11, shape, 140), shuffled = Shuffled(ordered, 12);
  const KvWork work = {&shuffled, {0, 1, 64, 139}, 140};
  PagedScene pages(&scene(), shape, 10);
  pages.Write({work}, 140);
  const auto results = pages.Attend({work});
  for (int r = 0; r < 4; ++r) ExpectNear(shape, work, r, results[r]);
}

TEST_P(OpSuite, ARowThatSeesNothingGetsZeros) {
  const KvShape shape = {2, 1, 32, 16};
  KvSequence sequence = RandomSequence(17, shape, 40);
  for (int32_t& position : sequence.positions) position += 10;
  sequence.by_index = false;
  for (const int slots : {30, 0}) {
    const KvWork work = {&sequence, {5}, slots};
    PagedScene pages(&scene(), shape, 4);
    pages.Write({work}, 30);
    const auto results = pages.Attend({work});
    for (Bf16 x : results[0].out) EXPECT_EQ(x.bits, 0);
    for (float lse : results[0].lse) EXPECT_EQ(lse, -INFINITY);
  }
}

// Two rows of three query heads and one KV head, in a page of their own.
struct RopeScene {
  static constexpr int kHeads = 3, kHeadDim = 48, kRotary = 32, kWidth = (kHeads + 2) * kHeadDim;
  const std::vector<float> qkv = RandomFloats(21, 2 * kWidth), norm = RandomFloats(22, kHeadDim);
  const std::vector<int32_t> positions = {3, 7};
  const SequenceRows sequence = {0, 2, 0, 8};
  AttentionRows rows;
  KvLayer kv;
  RopeWriteArgs args;

  explicit RopeScene(OpScene* scene) {
    std::vector<float> cosines, sines;
    for (int p = 0; p < 8; ++p) {
      for (int i = 0; i < kRotary / 2; ++i) {
        const double angle = p * std::pow(10000.0, -2.0 * i / kRotary);
        cosines.push_back(static_cast<float>(std::cos(angle)));
        sines.push_back(static_cast<float>(std::sin(angle)));
      }
    }
    rows.sequences = {&sequence, 1};
    rows.positions = rows.slots = scene->Up(positions);
    rows.blocks = scene->Up(std::vector<PageId>{0});
    kv.layout = {16, 1, 1, kHeadDim};
    kv.pool = scene->Room<std::byte>(kv.layout.PageBytes());
    args.qkv = {scene->Up(qkv), 2, kWidth, kWidth};
    args.heads = kHeads;
    args.q_norm = args.k_norm = scene->Up(norm);
    args.norm_eps = 1e-6f;
    args.rope_cos = scene->Up(cosines);
    args.rope_sin = scene->Up(sines);
    args.rotary_dim = kRotary;
    args.q = {scene->Room<Bf16>(2 * kHeads * kHeadDim), 2, kHeads * kHeadDim, kHeads * kHeadDim};
  }
};

// What is predicted has no queries.
TEST_P(OpSuite, RopeWritesKeysAndValuesWithoutQueries) {
  RopeScene with(&scene()), without(&scene());
  ops().RopeAndWriteKv(with.args, with.rows, with.kv);
  constexpr int64_t kQueries = RopeScene::kHeads * RopeScene::kHeadDim;
  without.args.qkv.data += kQueries;
  without.args.qkv.cols -= kQueries;
  without.args.heads = 0;
  without.args.q = {};
  ops().RopeAndWriteKv(without.args, without.rows, without.kv);
  const auto bytes = static_cast<size_t>(with.kv.layout.PageBytes());
  EXPECT_EQ(scene().Down(with.kv.pool, bytes), scene().Down(without.kv.pool, bytes));
  EXPECT_NE(scene().Down(with.kv.pool, bytes), std::vector<std::byte>(bytes));
}

TEST_P(OpSuite, RopeNormalisesAndRotatesQueries) {
  constexpr int kHeads = RopeScene::kHeads, kHeadDim = RopeScene::kHeadDim;
  constexpr int kRotary = RopeScene::kRotary, kWidth = RopeScene::kWidth;
  RopeScene rope(&scene());
  const auto& [qkv, norm, positions, sequence, rows, kv, args] = rope;
  ops().RopeAndWriteKv(args, rows, kv);
  const auto q = scene().Down(args.q.data, 2 * kHeads * kHeadDim);
  for (int r = 0; r < 2; ++r) {
    for (int h = 0; h < kHeads; ++h) {
      const float* x = qkv.data() + r * kWidth + h * kHeadDim;
      double squares = 0;
      for (int d = 0; d < kHeadDim; ++d) squares += double{x[d]} * x[d];
      const double inverse = 1 / std::sqrt(squares / kHeadDim + 1e-6);
      const auto value = [&](int d) { return x[d] * inverse * norm[d]; };
      for (int d = 0; d < kHeadDim; ++d) {
        double want = value(d), magnitude = std::abs(want);
        if (d < kRotary) {
          const int half = kRotary / 2, i = d % half;
          const double a = value(i), b = value(i + half);
          const double angle = positions[r] * std::pow(10000.0, -2.0 * i / kRotary);
          want = d < half ? a * std::cos(angle) - b * std::sin(angle)
                          : b * std::cos(angle) + a * std::sin(angle);
          magnitude = std::abs(a) + std::abs(b);
        }
        ASSERT_NEAR(ToFloat(q[(r * kHeads + h) * kHeadDim + d]), want,
                    kOpTolerance.bf16_result * magnitude);
      }
    }
  }
}

}  // namespace
}  // namespace skim
