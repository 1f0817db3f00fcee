// The codes of the KV formats: how vectors become codes, and codes numbers again, on every
// path.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/cpu/attention_kernels.h"
#include "kernels/cpu/row_kernels.h"
#include "kv_scene.h"

namespace skim {
namespace {

const AttentionKernels& KernelsFor(Isa isa) {
  return isa == Isa::kPlain ? kAttentionPlain : isa == Isa::kAvx2 ? kAttentionAvx2 : kAttentionAvx512;
}

class KvFormatOn : public testing::TestWithParam<std::tuple<Isa, KvFormat>> {
 protected:
  Isa isa() const { return std::get<0>(GetParam()); }
  KvFormat format() const { return std::get<1>(GetParam()); }
  float Highest() const { return format() == KvFormat::kInt8 ? 127 : 448; }

  StoredVector Quantized(const std::vector<float>& x) {
    StoredVector got = StoredVector::Of(format(), x.data(), static_cast<int>(x.size()));
    got.scale = RowKernelsOf(isa()).quantize(x.data(), static_cast<int>(x.size()), format(),
                                             got.codes.data());
    return got;
  }
};

// With a query that is 1 in one place, a score is a stored number.
TEST_P(KvFormatOn, ReadsEveryCodeExactlyForFewRowsAndForMany) {
  constexpr int kHeadDim = 4, kCodes = 256;
  const KvLayout layout = {kAttentionBlock, 1, 1, kHeadDim, format()};
  alignas(64) std::byte page[kAttentionBlock * 28];
  ASSERT_EQ(layout.PageBytes(), static_cast<int64_t>(sizeof page));
  const float scale = 0.75f;
  for (int slot = 0; slot < kAttentionBlock; ++slot) {
    for (int d = 0; d < kHeadDim; ++d) {
      page[layout.KeyElement(slot, d)] = static_cast<std::byte>(slot * kHeadDim + d);
    }
    std::memcpy(page + layout.KeyScale(slot), &scale, sizeof scale);
  }
  static_assert(kCodes == kAttentionBlock * kHeadDim);
  AttentionBlock block = {};
  for (int g = 0; g < kBlockGroups; ++g) {
    block.at.keys[g] = page + layout.KeyElement(g * kKeyGroup, 0);
    block.at.key_scales[g] = reinterpret_cast<const float*>(page + layout.KeyScale(g * kKeyGroup));
  }
  block.next = block.at;
  block.slots = kAttentionBlock;
  for (int rows : {1, 2, 4, 8, 48}) {
    std::vector<Bf16> q(rows * kHeadDim), expanded(kAttentionBlock * 16);
    for (int r = 0; r < rows; ++r) q[r * kHeadDim + r % kHeadDim] = ToBf16(1);
    std::vector<float> scores(rows * kAttentionBlock);
    AttentionTile tile = {};
    tile.rows = rows;
    tile.head_dim = tile.q_stride = kHeadDim;
    tile.columns = 16;
    tile.q = q.data();
    tile.scores = scores.data();
    tile.expanded = expanded.data();
    KernelsFor(isa()).Of(format()).score_block(tile, block);
    for (int r = 0; r < rows; ++r) {
      for (int slot = 0; slot < kAttentionBlock; ++slot) {
        const int code = slot * kHeadDim + r % kHeadDim;
        double want = CodeMagnitude(format(), code & 127) * scale;
        if (std::isnan(want)) want = 480 * scale;  // no writer stores it, but it must be finite
        EXPECT_EQ(scores[r * kAttentionBlock + slot], code < 128 ? want : -want)
            << "code " << code << ", " << rows << " rows";
      }
    }
  }
}

TEST_P(KvFormatOn, StoresTheNearestCodeOfNumbersOfAnySize) {
  std::mt19937 random(3);
  std::normal_distribution<float> normal;
  for (float size : {1e-25f, 1e-3f, 1.0f, 300.0f, 1e30f}) {
    for (int count : {2, 64, 72, 256}) {
      std::vector<float> x(count);
      // Many sizes in a vector, so that e4m3 needs all its exponents and its subnormals.
      for (float& v : x) v = size * normal(random) * std::exp2(-0.5f * (random() % 40));
      const float max = std::abs(*std::max_element(
          x.begin(), x.end(), [](float a, float b) { return std::abs(a) < std::abs(b); }));
      const StoredVector got = Quantized(x);
      EXPECT_NEAR(got.scale, max / Highest(), got.scale * 1e-6);
      for (int d = 0; d < count; ++d) {
        ASSERT_LE(std::abs(got[d] - x[d]), StorageError(format(), x[d], max)) << x[d];
        // No neighbour is nearer, but for the rounding of the scale.
        const double error = std::abs(got[d] - x[d]);
        for (int step : {-1, 1}) {
          const int code = (got.codes[d] & 127) + step;
          if (code < 0 || !(CodeMagnitude(format(), code) <= Highest())) continue;
          const double other = CodeMagnitude(format(), code) * got.scale;
          ASSERT_LE(error, std::abs(other - std::abs(x[d])) + 2e-6 * std::abs(x[d])) << x[d];
        }
        ASSERT_EQ(got.codes[d] >= 128, std::signbit(x[d]));
      }
    }
  }
}

// Multiples of the scale are numbers the format has.
TEST_P(KvFormatOn, KeepsEveryNumberItHas) {
  for (int code = 0; code < 127; ++code) {
    const auto number = static_cast<float>(CodeMagnitude(format(), code));
    const StoredVector got = Quantized({Highest(), -number, number, -Highest()});
    EXPECT_EQ(got[1], -number);
    EXPECT_EQ(got[2], number);
    EXPECT_EQ(got[0], Highest());
    EXPECT_EQ(got[3], -Highest());
  }
}

TEST_P(KvFormatOn, RoundsTiesToEven) {
  for (int code = 0; code < 126; ++code) {
    const double middle = (CodeMagnitude(format(), code) + CodeMagnitude(format(), code + 1)) / 2;
    const StoredVector got = Quantized({Highest(), static_cast<float>(middle)});
    EXPECT_EQ(got.codes[1], code % 2 == 0 ? code : code + 1);
  }
}

TEST_P(KvFormatOn, MakesZerosOfWhatIsTooSmallAndNanOfWhatIsNotFinite) {
  for (float tiny : {0.0f, -0.0f, 1e-40f, 0x1p-101f}) {
    const StoredVector got = Quantized({tiny, 0, -tiny});
    for (int d = 0; d < 3; ++d) EXPECT_EQ(got[d], 0);
  }
  EXPECT_GT(Quantized({kSmallestKvMaximum, 0})[0], 0);
  const float largest = std::numeric_limits<float>::max();
  EXPECT_NEAR(Quantized({0, -largest})[1], -largest, largest * 1e-6);
  for (float bad : {NAN, -NAN, INFINITY, -INFINITY}) {
    const StoredVector got = Quantized({1, bad, 2});
    for (int d = 0; d < 3; ++d) EXPECT_TRUE(std::isnan(got[d]));
  }
}

TEST_P(KvFormatOn, StoresTheSameOnEveryPath) {
  std::mt19937 random(5);
  std::normal_distribution<float> normal;
  std::vector<float> x(128);
  for (float& v : x) v = normal(random);
  const StoredVector got = Quantized(x);
  std::vector<uint8_t> codes(x.size());
  EXPECT_EQ(RowKernelsOf(Isa::kPlain).quantize(x.data(), 128, format(), codes.data()), got.scale);
  EXPECT_EQ(codes, got.codes);
}

TEST_P(KvFormatOn, HoldsNearlyTwiceTheTokens) {
  for (int head_dim : {64, 128}) {
    KvLayout layout = {32, 1, 8, head_dim};
    const double bf16 = static_cast<double>(layout.PageBytes());
    layout.format = format();
    EXPECT_GE(bf16 / static_cast<double>(layout.PageBytes()), head_dim == 64 ? 1.88 : 1.93);
  }
}

INSTANTIATE_TEST_SUITE_P(Paths, KvFormatOn,
                         testing::Combine(testing::ValuesIn(SupportedIsas()),
                                          testing::Values(KvFormat::kInt8, KvFormat::kFp8)),
                         [](const auto& info) {
                           return std::string(IsaName(std::get<0>(info.param))) + "_" +
                                  std::string(KvFormatName(std::get<1>(info.param)));
                         });

}  // namespace
}  // namespace skim
