// Products with quantised weights. Every backend quantises alike, so the codes of the CPU's packed
// form, read by the oracle, say what any of them must compute.
#include <cmath>
#include <limits>

#include "base/fp8.h"
#include "tests/kernels/op_suite.h"
#include "tests/kernels/weight_oracle.h"

namespace skim {
namespace {

constexpr WeightFormat kQuantized[] = {WeightFormat::kFp8, WeightFormat::kInt8,
                                       WeightFormat::kInt4};

UnpackedWeight Oracle(const TestMatrix<Bf16>& w, WeightFormat format, WeightShape shape) {
  ThreadPool pool(1, false);
  return Unpack(*CpuPackedWeight::Pack(pool, w.view(), format, shape).value());
}

// The product in exact arithmetic, with what float32 sums may differ by.
Exact Want(const UnpackedWeight& oracle, const TestMatrix<Bf16>& x, int64_t r, int64_t n,
           const float* bias) {
  return ExactDot(InputOf(oracle, x, r), oracle, n, bias);
}

struct LinearShape {
  int64_t m, n, k, extra_stride;
};
// The last two: deep enough to come back to a buffer that was read before, and rows enough for a
// library to be asked.
constexpr LinearShape kLinearShapes[] = {{1, 7, 5, 3},    {3, 18, 64, 0}, {17, 10, 96, 0},
                                         {2, 33, 296, 8}, {2, 5, 131, 1}, {2, 9, 1000, 0},
                                         {66, 18, 72, 8}};

TEST_P(ProductSuite, LinearIsTheProductWithWhatTheCodesStandFor) {
  for (const WeightFormat format : kQuantized) {
    for (const LinearShape& s : kLinearShapes) {
      SCOPED_TRACE(testing::Message() << std::string(WeightFormatName(format)) << " " << s.m
                                      << " x " << s.n << " x " << s.k);
      const auto x = RandomBf16(5, s.m, s.k, 1, s.extra_stride);
      const auto w = RandomBf16(6, s.n, s.k, 0.1f, 2);
      const auto bias = RandomFloats(7, s.n);
      const auto oracle = Oracle(w, format, WeightShape::kPlain);
      const auto packed = scene().Pack(w, WeightShape::kPlain, format);
      EXPECT_EQ(packed->format(), format);
      const Matrix<float> y = {scene().Room<float>(s.m * s.n), s.m, s.n, s.n};
      ops().Linear(scene().Up(x), *packed, scene().Up(bias), false, y);
      const auto once = scene().Down(y.data, s.m * s.n);
      ops().Linear(scene().Up(x), *packed, nullptr, true, y);
      const auto twice = scene().Down(y.data, s.m * s.n);
      for (int64_t r = 0; r < s.m; ++r) {
        for (int64_t n = 0; n < s.n; ++n) {
          const Exact want = Want(oracle, x, r, n, bias.data());
          const double bound = want.bound + kOpTolerance.float_sum * (std::abs(want.value) + 1);
          ASSERT_NEAR(once[r * s.n + n], want.value, bound) << "row " << r << " column " << n;
          ASSERT_NEAR(twice[r * s.n + n], 2 * want.value - bias[n], 3 * bound);
        }
      }
    }
  }
}

TEST_P(ProductSuite, LinearSwiGluGatesTheUpProjectionInEveryFormat) {
  for (const WeightFormat format : kQuantized) {
    const int64_t n = 21, k = 72;
    SCOPED_TRACE(std::string(WeightFormatName(format)));
    const auto w = RandomBf16(10, 2 * n, k, 0.2f);
    const auto bias = RandomFloats(11, 2 * n);
    const auto oracle = Oracle(w, format, WeightShape::kGateUp);
    const auto packed = scene().Pack(w, WeightShape::kGateUp, format);
    for (const int64_t m : {3, 66}) {
      const auto x = RandomBf16(9, m, k);
      auto* y = scene().Room<Bf16>(m * n);
      ops().LinearSwiGlu(scene().Up(x), *packed, scene().Up(bias), {y, m, n, n});
      const auto got = scene().Down(y, m * n);
      for (int64_t r = 0; r < m; ++r) {
        for (int64_t c = 0; c < n; ++c) {
          const Exact gate = Want(oracle, x, r, c, bias.data());
          const Exact up = Want(oracle, x, r, n + c, bias.data());
          const double want = gate.value / (1 + std::exp(-gate.value)) * up.value;
          const double bound = kOpTolerance.bf16_result * std::abs(want) +
                               (gate.bound + up.bound + kOpTolerance.float_sum) *
                                   (std::abs(gate.value) + std::abs(up.value) + 1);
          ASSERT_NEAR(ToFloat(got[r * n + c]), want, bound) << "row " << r << " column " << c;
        }
      }
    }
  }
}

TEST_P(ProductSuite, ARowOfAQuantisedProductDoesNotDependOnTheOthers) {
  constexpr int64_t kRows = 83;
  const auto x = RandomBf16(12, kRows, 152), w = RandomBf16(13, 24, 152, 0.1f);
  const auto device_x = scene().Up(x);
  for (const WeightFormat format : kQuantized) {
    // The library may add floats up in another order for more rows.
    if (GetParam() == kCublasLt && format == WeightFormat::kFp8) continue;
    const auto packed = scene().Pack(w, WeightShape::kPlain, format);
    const Matrix<float> all = {scene().Room<float>(kRows * 24), kRows, 24, 24};
    ops().Linear(device_x, *packed, nullptr, false, all);
    const auto together = scene().Down(all.data, kRows * 24);
    for (int64_t r : {0, 18, 63, 64, 82}) {
      const Matrix<float> one = {scene().Room<float>(24), 1, 24, 24};
      ops().Linear(device_x.Rows(r, 1), *packed, nullptr, false, one);
      const auto alone = scene().Down(one.data, 24);
      for (int64_t n = 0; n < 24; ++n) ASSERT_EQ(alone[n], together[r * 24 + n]);
    }
  }
}

TEST_P(OpSuite, RowsThatAreZeroOrNotFiniteKeepToThemselves) {
  for (const WeightFormat format : {WeightFormat::kInt8, WeightFormat::kInt4}) {
    TestMatrix<Bf16> x = RandomBf16(14, 4, 64);
    for (int64_t k = 0; k < 64; ++k) x.at(1, k) = Bf16{};
    x.at(2, 7) = ToBf16(std::numeric_limits<float>::infinity());
    x.at(3, 40) = ToBf16(std::nanf(""));
    const auto w = RandomBf16(15, 8, 64);
    const auto packed = scene().Pack(w, WeightShape::kPlain, format);
    const Matrix<float> y = {scene().Room<float>(4 * 8), 4, 8, 8};
    ops().Linear(scene().Up(x), *packed, nullptr, false, y);
    const auto got = scene().Down(y.data, 4 * 8);
    for (int64_t n = 0; n < 8; ++n) {
      EXPECT_TRUE(std::isfinite(got[n]) && got[n] != 0);
      EXPECT_EQ(got[8 + n], 0);
      EXPECT_TRUE(std::isnan(got[16 + n]));
      EXPECT_TRUE(std::isnan(got[24 + n]));
    }
  }
}

TEST_P(OpSuite, WeightsThatComeQuantisedAreTakenAsTheyAre) {
  const int64_t n = 11, k = 70;
  const auto x = RandomBf16(16, 2, k);
  std::vector<float> scales(n);
  for (int64_t i = 0; i < n; ++i) scales[i] = 0.01f * static_cast<float>(i + 1);
  for (const WeightFormat format : {WeightFormat::kFp8, WeightFormat::kInt8}) {
    const bool fp8 = format == WeightFormat::kFp8;
    std::vector<uint8_t> codes(n * k);
    for (size_t i = 0; i < codes.size(); ++i) {
      codes[i] = static_cast<uint8_t>(i * 37);
      if (fp8 && (codes[i] & 0x7f) == 0x7f) codes[i] ^= 1;  // NaN
    }
    const QuantizedMatrix weight = {format, codes.data(), scales.data(), n, k};
    ThreadPool pool(1, false);
    const auto oracle = Unpack(*CpuPackedWeight::Pack(pool, weight, WeightShape::kPlain).value());
    const auto packed = ops().PackQuantized(weight, WeightShape::kPlain).value();
    const Matrix<float> y = {scene().Room<float>(2 * n), 2, n, n};
    ops().Linear(scene().Up(x), *packed, nullptr, false, y);
    const auto got = scene().Down(y.data, 2 * n);
    for (int64_t i = 0; i < 2 * n; ++i) {
      const Exact want = Want(oracle, x, i / n, i % n, nullptr);
      ASSERT_NEAR(got[i], want.value,
                  want.bound + kOpTolerance.float_sum * (std::abs(want.value) + 1));
    }
    scales[3] = -1;
    EXPECT_EQ(ops().PackQuantized(weight, WeightShape::kPlain).status().code(),
              absl::StatusCode::kInvalidArgument);
    scales[3] = 0.04f;
  }
}

TEST_P(OpSuite, RefusesToQuantiseWhatIsNotFinite) {
  TestMatrix<Bf16> w = RandomBf16(17, 4, 40);
  w.at(2, 39) = ToBf16(std::nanf(""));
  for (const WeightFormat format : kQuantized) {
    EXPECT_EQ(ops().PackWeight(w.view(), format, WeightShape::kPlain).status().code(),
              absl::StatusCode::kInvalidArgument);
  }
}

}  // namespace
}  // namespace skim
