// K and V go into pages through RopeAndWriteKv and come out through Attention, so no test here
// knows how a page is laid out.
#include <algorithm>
#include <cmath>
#include <numeric>

#include "tests/kernels/kv_scene.h"
#include "tests/kernels/op_suite.h"

namespace skim {
namespace {

constexpr int kLayerInUnit = 1;

// A pool of shuffled pages and one sequence after another in them.
class PagedScene {
 public:
  PagedScene(OpScene* scene, const KvShape& shape, int pages) : scene_(*scene), shape_(shape) {
    kv_.layout = {shape.page_tokens, 2, shape.kv_heads, shape.head_dim};
    kv_.layer_in_unit = kLayerInUnit;
    // Whatever former owners left must not matter: NaN.
    const std::vector<Bf16> garbage(pages * kv_.layout.PageBytes() / sizeof(Bf16), Bf16{0x7fc1});
    kv_.pool = reinterpret_cast<std::byte*>(scene->Up(garbage));
    free_.resize(pages);
    std::iota(free_.begin(), free_.end(), 0);
    std::shuffle(free_.begin(), free_.end(), std::mt19937(7));
  }

  // Writes the first w.slots slots of every sequence, in slot order, in chunks of `chunk`.
  void Write(const std::vector<KvWork>& work, int chunk) {
    for (const KvWork& w : work) {
      begins_.push_back(static_cast<int32_t>(blocks_.size()));
      for (int slot = 0; slot < w.slots; slot += shape_.page_tokens) {
        blocks_.push_back(free_.back());
        free_.pop_back();
      }
    }
    slot_positions_.assign(blocks_.size() * shape_.page_tokens, 0);
    for (size_t i = 0; i < work.size(); ++i) {
      for (int slot = 0; slot < work[i].slots; ++slot) {
        slot_positions_[begins_[i] * shape_.page_tokens + slot] = work[i].sequence->positions[slot];
      }
      for (int first = 0; first < work[i].slots; first += chunk) {
        WriteSlots(*work[i].sequence, begins_[i], first, std::min(first + chunk, work[i].slots));
      }
    }
  }

  std::vector<AttentionResult> Attend(const std::vector<KvWork>& work) {
    std::vector<SequenceRows> sequences;
    std::vector<int32_t> positions;
    std::vector<Bf16> q;
    for (size_t i = 0; i < work.size(); ++i) {
      sequences.push_back({static_cast<int32_t>(positions.size()),
                           static_cast<int32_t>(work[i].positions.size()), begins_[i],
                           work[i].slots,
                           work[i].sequence->by_index
                               ? SequenceRows::kInOrder
                               : int64_t{begins_[i]} * shape_.page_tokens});
      for (int32_t position : work[i].positions) {
        positions.push_back(position);
        const auto& query = work[i].sequence->queries[position];
        q.insert(q.end(), query.begin(), query.end());
      }
    }
    const auto rows = static_cast<int64_t>(positions.size());
    const int64_t width = shape_.heads * shape_.head_dim;
    AttentionRows attention_rows;
    attention_rows.sequences = sequences;
    attention_rows.positions = scene_.Up(positions);
    attention_rows.blocks = scene_.Up(blocks_);
    attention_rows.slot_positions = scene_.Up(slot_positions_);
    AttentionArgs args;
    args.q = {scene_.Up(q), rows, width, width};
    args.heads = shape_.heads;
    args.scale = 1 / std::sqrt(static_cast<float>(shape_.head_dim));
    args.out = {scene_.Room<Bf16>(rows * width), rows, width, width};
    args.lse = scene_.Room<float>(rows * shape_.heads);
    scene_.ops().Attention(args, attention_rows, kv_);
    const auto out = scene_.Down(args.out.data, rows * width);
    const auto lse = scene_.Down(args.lse, rows * shape_.heads);
    std::vector<AttentionResult> results;
    for (int64_t r = 0; r < rows; ++r) {
      results.push_back({{out.begin() + r * width, out.begin() + (r + 1) * width},
                         {lse.begin() + r * shape_.heads, lse.begin() + (r + 1) * shape_.heads}});
    }
    return results;
  }

 private:
  // Nothing is rotated: K and V arrive in their slots as they are, being bf16 values.
  void WriteSlots(const KvSequence& sequence, int32_t block_begin, int first, int end) {
    const int count = end - first, kv_width = shape_.kv_heads * shape_.head_dim;
    const int64_t width = shape_.heads * shape_.head_dim + 2 * kv_width;
    std::vector<float> qkv(count * width, 1.0f);
    std::vector<int32_t> slots, positions(count, 0);
    for (int slot = first; slot < end; ++slot) {
      float* row = qkv.data() + (slot - first) * width + shape_.heads * shape_.head_dim;
      for (int i = 0; i < kv_width; ++i) {
        row[i] = ToFloat(sequence.keys[slot][i]);
        row[kv_width + i] = ToFloat(sequence.values[slot][i]);
      }
      slots.push_back(slot);
    }
    const SequenceRows rows_of = {0, count, block_begin, end};
    AttentionRows rows;
    rows.sequences = {&rows_of, 1};
    rows.positions = scene_.Up(positions);
    rows.slots = scene_.Up(slots);
    rows.blocks = scene_.Up(blocks_);
    RopeWriteArgs args;
    args.qkv = {scene_.Up(qkv), count, width, width};
    args.heads = shape_.heads;
    args.rope_cos = args.rope_sin = scene_.Room<float>(1);
    const int64_t q_width = shape_.heads * shape_.head_dim;
    args.q = {scene_.Room<Bf16>(count * q_width), count, q_width, q_width};
    scene_.ops().RopeAndWriteKv(args, rows, kv_);
    ASSERT_TRUE(scene_.ops().Wait().ok());
  }

  OpScene& scene_;
  KvShape shape_;
  KvLayer kv_;
  std::vector<PageId> free_, blocks_;
  std::vector<int32_t> begins_, slot_positions_;
};

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

std::vector<int32_t> Range(int begin, int end) {
  std::vector<int32_t> range(end - begin);
  std::iota(range.begin(), range.end(), begin);
  return range;
}

TEST_P(OpSuite, AttentionAgreesWithDoublePrecision) {
  for (const KvShape& shape : {KvShape{1, 1, 2, 16}, KvShape{3, 1, 72, 32}, KvShape{4, 4, 32, 64},
                               KvShape{18, 2, 64, 16}, KvShape{2, 1, 256, 32}}) {
    const KvSequence sequence = RandomSequence(shape.head_dim, shape, 85);
    const KvWork work = {&sequence, {0, 15, 63, 64, 84}, 85};
    PagedScene pages(&scene(), shape, 8);
    pages.Write({work}, 33);
    const auto results = pages.Attend({work});
    for (int r = 0; r < 5; ++r) {
      SCOPED_TRACE(testing::Message() << "heads " << shape.heads << " dim " << shape.head_dim);
      ExpectNear(shape, work, r, results[r]);
    }
  }
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
  for (size_t i = 0; i < alone[0].out.size(); ++i) {
    ASSERT_EQ(alone[0].out[i].bits, together[0].out[i].bits);
  }
  EXPECT_EQ(alone[0].lse, together[0].lse);
  for (int r : {0, 10}) ExpectNear(shape, work[1], r, together[1 + r]);
  ExpectNear(shape, work[2], 0, together[12]);
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
  const KvWork work = {&sequence, {5}, 30};
  PagedScene pages(&scene(), shape, 4);
  pages.Write({work}, 30);
  const auto results = pages.Attend({work});
  for (Bf16 x : results[0].out) EXPECT_EQ(x.bits, 0);
  for (float lse : results[0].lse) EXPECT_EQ(lse, -INFINITY);
}

TEST_P(OpSuite, RopeNormalisesAndRotatesQueries) {
  constexpr int kHeads = 3, kHeadDim = 48, kRotary = 32, kWidth = (kHeads + 2) * kHeadDim;
  const auto qkv = RandomFloats(21, 2 * kWidth), norm = RandomFloats(22, kHeadDim);
  std::vector<float> cosines, sines;
  for (int p = 0; p < 8; ++p) {
    for (int i = 0; i < kRotary / 2; ++i) {
      const double angle = p * std::pow(10000.0, -2.0 * i / kRotary);
      cosines.push_back(static_cast<float>(std::cos(angle)));
      sines.push_back(static_cast<float>(std::sin(angle)));
    }
  }
  const std::vector<int32_t> positions = {3, 7}, slots = {3, 7};
  const std::vector<PageId> blocks = {0};
  const SequenceRows sequence = {0, 2, 0, 8};
  AttentionRows rows;
  rows.sequences = {&sequence, 1};
  rows.positions = scene().Up(positions);
  rows.slots = scene().Up(slots);
  rows.blocks = scene().Up(blocks);
  KvLayer kv;
  kv.layout = {16, 1, 1, kHeadDim};
  kv.pool = scene().Room<std::byte>(kv.layout.PageBytes());
  RopeWriteArgs args;
  args.qkv = {scene().Up(qkv), 2, kWidth, kWidth};
  args.heads = kHeads;
  args.q_norm = args.k_norm = scene().Up(norm);
  args.norm_eps = 1e-6f;
  args.rope_cos = scene().Up(cosines);
  args.rope_sin = scene().Up(sines);
  args.rotary_dim = kRotary;
  args.q = {scene().Room<Bf16>(2 * kHeads * kHeadDim), 2, kHeads * kHeadDim, kHeads * kHeadDim};
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
