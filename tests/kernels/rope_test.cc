#include "kernels/cpu/rope.h"

#include <cmath>
#include <cstring>
#include <string>

#include "gtest/gtest.h"
#include "kv_scene.h"
#include "random_matrix.h"

namespace skim {
namespace {

constexpr int kMaxPositions = 64;
constexpr uint16_t kGarbage = 0x7fc1;  // a NaN
constexpr std::byte kPoolGarbage{0xff};  // a NaN in bf16 and float

struct RopeCase {
  int heads, kv_heads, head_dim, rotary_dim;
  bool norm;
};

// One layer of pages and everything a call needs; the sequences are given per test.
class RopeScene {
 public:
  RopeScene(const RopeCase& c, KvFormat format, int rows, std::byte garbage = kPoolGarbage)
      : c_(c) {
    const int half = c.rotary_dim / 2;
    for (int p = 0; p < kMaxPositions; ++p) {
      for (int i = 0; i < half; ++i) {
        const double angle = p * std::pow(10000.0, -2.0 * i / c.rotary_dim);
        cos_.push_back(static_cast<float>(std::cos(angle)));
        sin_.push_back(static_cast<float>(std::sin(angle)));
      }
    }
    width_ = (c.heads + 2 * c.kv_heads) * c.head_dim;
    qkv_ = RandomFloats(11, rows * width_);
    q_norm_ = RandomFloats(12, c.head_dim);
    k_norm_ = RandomFloats(13, c.head_dim);
    q_.assign(rows * c.heads * c.head_dim, Bf16{kGarbage});
    kv_.layout = {16, 2, c.kv_heads, c.head_dim, format};
    kv_.layer_in_unit = 1;
    pool_.assign(kPages * kv_.layout.PageBytes(), garbage);
    kv_.pool = pool_.data();
  }

  void Run(Isa isa, int threads, const AttentionRows& rows) {
    RopeWriteArgs args;
    const int64_t count = qkv_.size() / width_;
    args.qkv = {qkv_.data(), count, width_, width_};
    args.heads = c_.heads;
    args.q_norm = c_.norm ? q_norm_.data() : nullptr;
    args.k_norm = c_.norm ? k_norm_.data() : nullptr;
    args.norm_eps = 1e-6f;
    args.rope_cos = cos_.data();
    args.rope_sin = sin_.data();
    args.rotary_dim = c_.rotary_dim;
    const int64_t q_width = c_.heads * c_.head_dim;
    args.q = {q_.data(), count, q_width, q_width};
    ThreadPool pool(threads, false);
    CpuRopeAndWriteKv(pool, isa, args, rows, kv_);
  }

  // Column `d` of head `head` (queries, then keys, then values) of a row, in double.
  double Want(int row, int head, int d, int position) const {
    const float* x = qkv_.data() + row * width_ + head * c_.head_dim;
    if (head >= c_.heads + c_.kv_heads) return x[d];
    const std::vector<float>& norm = head < c_.heads ? q_norm_ : k_norm_;
    double squares = 0;
    for (int i = 0; i < c_.head_dim; ++i) squares += double{x[i]} * x[i];
    const double inverse = 1 / std::sqrt(squares / c_.head_dim + 1e-6);
    const auto value = [&](int i) { return c_.norm ? x[i] * inverse * norm[i] : double{x[i]}; };
    if (d >= c_.rotary_dim) return value(d);
    const int half = c_.rotary_dim / 2, i = d % half;
    const double angle = position * std::pow(10000.0, -2.0 * i / c_.rotary_dim);
    return d < half ? value(d) * std::cos(angle) - value(d + half) * std::sin(angle)
                    : value(d) * std::cos(angle) + value(d - half) * std::sin(angle);
  }

  Bf16 Q(int row, int head, int d) const { return q_[(row * c_.heads + head) * c_.head_dim + d]; }
  // Number `d` of a key or value. kv_scene.cc spells the layout out; here it is believed.
  double Key(PageId page, int layer, int head, int offset, int d) const {
    const KvLayout& layout = kv_.layout;
    return Number(Base(page) + layout.KeyBase(layer, head), layout.KeyElement(offset, d),
                  layout.KeyScale(offset));
  }
  double Value(PageId page, int layer, int head, int offset, int d) const {
    const KvLayout& layout = kv_.layout;
    return Number(Base(page) + layout.ValueBase(layer, head), layout.ValueElement(offset, d),
                  layout.ValueScale(offset));
  }
  float* qkv(int row, int head) { return qkv_.data() + row * width_ + head * c_.head_dim; }
  const std::vector<std::byte>& pool() const { return pool_; }
  const std::vector<Bf16>& q() const { return q_; }

 private:
  static constexpr int kPages = 6;

  const std::byte* Base(PageId page) const { return pool_.data() + page * kv_.layout.PageBytes(); }
  double Number(const std::byte* base, int64_t at, int64_t scale_at) const {
    if (!kv_.layout.coded()) return ToFloat(At<Bf16>(base + at));
    const auto code = static_cast<int>(base[at]);
    const double magnitude =
        CodeMagnitude(kv_.layout.format, code & 127) * At<float>(base + scale_at);
    return code < 128 ? magnitude : -magnitude;
  }
  template <typename T>
  static T At(const std::byte* from) {
    T x;
    std::memcpy(&x, from, sizeof x);
    return x;
  }

  RopeCase c_;
  int64_t width_;
  std::vector<float> cos_, sin_, qkv_, q_norm_, k_norm_;
  std::vector<Bf16> q_;
  std::vector<std::byte> pool_;
  KvLayer kv_;
};

class RopeOn : public testing::TestWithParam<std::tuple<Isa, KvFormat>> {
 protected:
  Isa isa() const { return std::get<0>(GetParam()); }
  KvFormat format() const { return std::get<1>(GetParam()); }
};

TEST_P(RopeOn, AgreesWithDoublePrecisionAndWritesTheNamedSlots) {
  const RopeCase cases[] = {{3, 1, 64, 64, false}, {4, 4, 32, 32, true},  {8, 2, 128, 128, true},
                            {6, 2, 80, 32, false}, {2, 1, 72, 40, false}, {1, 1, 2, 2, false},
                            {2, 2, 256, 128, true}};
  for (const RopeCase& c : cases) {
    // Rows 0..4: positions 17..21 in slots 14..18; row 5: position 3 in slot 0.
    const std::vector<SequenceRows> sequences = {{0, 5, 0, 19}, {5, 1, 2, 1}};
    const std::vector<int32_t> positions = {17, 18, 19, 20, 21, 3}, slots = {14, 15, 16, 17, 18, 0};
    const std::vector<PageId> blocks = {5, 2, 0};
    RopeScene scene(c, format(), 6);
    scene.Run(isa(), 2, {sequences, positions.data(), slots.data(), blocks.data(), nullptr});
    for (int row = 0; row < 6; ++row) {
      const PageId page = row == 5 ? 0 : blocks[slots[row] / 16];
      const int offset = slots[row] % 16;
      for (int h = 0; h < c.heads + 2 * c.kv_heads; ++h) {
        const int kv_head = (h - c.heads) % c.kv_heads;
        double max = 0;
        for (int d = 0; d < c.head_dim; ++d) {
          max = std::max(max, std::abs(scene.Want(row, h, d, positions[row])));
        }
        for (int d = 0; d < c.head_dim; ++d) {
          const double want = scene.Want(row, h, d, positions[row]);
          const double got = h < c.heads                ? ToFloat(scene.Q(row, h, d))
                             : h < c.heads + c.kv_heads ? scene.Key(page, 1, kv_head, offset, d)
                                                        : scene.Value(page, 1, kv_head, offset, d);
          // The angle's cosine is a float, and rounding follows a difference.
          const double error = StorageError(h < c.heads ? KvFormat::kBf16 : format(), want, max);
          ASSERT_NEAR(got, want, 1.01 * error + 4e-6)
              << "row " << row << " head " << h << " dim " << d;
        }
      }
    }
  }
}

TEST_P(RopeOn, ClearsThePartnerOfTheLastBf16SlotAndTouchesNothingElse) {
  const RopeCase c = {3, 1, 64, 64, false};
  // Five slots in use, the last two written now: slot 4's partner is 5.
  const std::vector<SequenceRows> sequences = {{0, 2, 0, 5}};
  const std::vector<int32_t> positions = {3, 4};
  const std::vector<PageId> blocks = {1};
  // A byte that was written is the same over any garbage.
  RopeScene scene(c, format(), 2), other(c, format(), 2, std::byte{0});
  for (RopeScene* s : {&scene, &other}) {
    s->Run(isa(), 1, {sequences, positions.data(), positions.data(), blocks.data(), nullptr});
  }
  int written = 0;
  for (size_t i = 0; i < scene.pool().size(); ++i) written += scene.pool()[i] == other.pool()[i];
  const bool bf16 = format() == KvFormat::kBf16;
  EXPECT_EQ(written, bf16 ? (2 + 2 + 1) * 64 * 2 : 2 * (2 * 64 + 2 * 4));
  for (int d = 0; d < 64; ++d) {
    if (bf16) {
      EXPECT_EQ(scene.Value(1, 1, 0, 5, d), 0);
    }
    EXPECT_TRUE(std::isnan(scene.Value(1, 1, 0, 2, d)));
  }
}

TEST_P(RopeOn, StoresAVectorThatIsNotFiniteAsNan) {
  if (format() == KvFormat::kBf16) GTEST_SKIP() << "bf16 keeps NaN number by number";
  const RopeCase c = {1, 1, 64, 64, false};
  const std::vector<SequenceRows> sequences = {{0, 2, 0, 2}};
  const std::vector<int32_t> positions = {0, 1};
  const std::vector<PageId> blocks = {1};
  for (float bad : {NAN, -INFINITY}) {
    RopeScene scene(c, format(), 2);
    scene.qkv(1, 2)[17] = bad;
    scene.Run(isa(), 1, {sequences, positions.data(), positions.data(), blocks.data(), nullptr});
    for (int d = 0; d < 64; ++d) {
      EXPECT_TRUE(std::isnan(scene.Value(1, 1, 0, 1, d)));
      EXPECT_TRUE(std::isfinite(scene.Value(1, 1, 0, 0, d)));
      EXPECT_TRUE(std::isfinite(scene.Key(1, 1, 0, 1, d)));
    }
  }
}

TEST_P(RopeOn, GivesARowTheSameBitsAloneAndInABatch) {
  const RopeCase c = {9, 3, 64, 64, true};
  const int rows = 61;
  std::vector<int32_t> positions;
  for (int r = 0; r < rows; ++r) positions.push_back(r);
  const std::vector<PageId> blocks = {4, 0, 3, 1};
  RopeScene alone(c, format(), rows);
  for (int r = 0; r < rows; ++r) {
    const std::vector<SequenceRows> one = {{r, 1, 0, r + 1}};
    alone.Run(isa(), 1, {one, positions.data(), positions.data(), blocks.data(), nullptr});
  }
  for (int threads : {1, 2, 3}) {
    RopeScene together(c, format(), rows);
    const std::vector<SequenceRows> all = {{0, rows, 0, rows}};
    together.Run(isa(), threads,
                 {all, positions.data(), positions.data(), blocks.data(), nullptr});
    for (size_t i = 0; i < alone.pool().size(); ++i) {
      ASSERT_EQ(alone.pool()[i], together.pool()[i]) << "pool byte " << i;
    }
    for (size_t i = 0; i < alone.q().size(); ++i) {
      ASSERT_EQ(alone.q()[i].bits, together.q()[i].bits) << "q element " << i;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Paths, RopeOn,
                         testing::Combine(testing::ValuesIn(SupportedIsas()),
                                          testing::Values(KvFormat::kBf16, KvFormat::kInt8,
                                                          KvFormat::kFp8)),
                         [](const auto& info) {
                           return std::string(IsaName(std::get<0>(info.param))) + "_" +
                                  std::string(KvFormatName(std::get<1>(info.param)));
                         });

}  // namespace
}  // namespace skim
