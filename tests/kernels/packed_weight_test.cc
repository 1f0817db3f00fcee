#include "kernels/cpu/packed_weight.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>

#include "base/fp8.h"
#include "kernels/weight_codes.h"
#include "tests/kernels/weight_oracle.h"

namespace skim {
namespace {

constexpr WeightFormat kFormats[] = {WeightFormat::kBf16, WeightFormat::kFp8, WeightFormat::kInt8,
                                     WeightFormat::kInt4};

std::unique_ptr<CpuPackedWeight> Pack(const TestMatrix<Bf16>& w, WeightFormat format,
                                      WeightShape shape = WeightShape::kPlain) {
  ThreadPool pool(2, false);
  auto packed = CpuPackedWeight::Pack(pool, w.view(), format, shape);
  EXPECT_TRUE(packed.ok()) << packed.status();
  return *std::move(packed);
}

TEST(Fp8, EveryCodeSurvivesTheWayThroughFloat) {
  for (int bits = 0; bits < 256; ++bits) {
    const Fp8 code{static_cast<uint8_t>(bits)};
    if (IsNan(code)) {
      EXPECT_TRUE(std::isnan(ToFloat(code)));
      EXPECT_TRUE(IsNan(ToFp8(ToFloat(code))));
    } else {
      EXPECT_EQ(ToFp8(ToFloat(code)).bits, bits);
    }
  }
  EXPECT_EQ(ToFloat(Fp8{1}), 0x1p-9f);
  EXPECT_EQ(ToFloat(Fp8{8}), 0x1p-6f);
  EXPECT_EQ(ToFloat(Fp8{0xfe}), -448);
}

TEST(Fp8, RoundsToTheNearestCodeAndTiesToTheEvenOne) {
  for (int code = 0; code < 0x7e; ++code) {
    const float low = ToFloat(Fp8{static_cast<uint8_t>(code)});
    const float high = ToFloat(Fp8{static_cast<uint8_t>(code + 1)});
    const float middle = (low + high) / 2;
    EXPECT_EQ(ToFp8(std::nextafter(middle, low)).bits, code);
    EXPECT_EQ(ToFp8(std::nextafter(middle, high)).bits, code + 1);
    EXPECT_EQ(ToFp8(middle).bits, code + code % 2);
    EXPECT_EQ(ToFp8(-middle).bits, 0x80 | (code + code % 2));
  }
  for (float beyond : {448.0f, 449.0f, 1e30f, std::numeric_limits<float>::infinity()}) {
    EXPECT_EQ(ToFp8(beyond).bits, 0x7e);
    EXPECT_EQ(ToFp8(-beyond).bits, 0xfe);
  }
}

TEST(PackedWeight, EmptyUnevenAndHugeShapesAreInvalid) {
  ThreadPool pool(1, false);
  const auto w = RandomBf16(20, 3, 4);
  for (Matrix<const Bf16> bad : {Matrix<const Bf16>{w.view().data, 0, 4, 4},
                                 {w.view().data, 3, 0, 4},
                                 {w.view().data, -1, 4, 4},
                                 {w.view().data, 3, -4, 4},
                                 {w.view().data, 3, 4, 3},
                                 {w.view().data, int64_t{1} << 41, 4, 4},
                                 {nullptr, 3, 4, 4}}) {
    for (WeightFormat format : kFormats) {
      EXPECT_EQ(CpuPackedWeight::Pack(pool, bad, format, WeightShape::kPlain).status().code(),
                absl::StatusCode::kInvalidArgument);
    }
  }
  EXPECT_EQ(CpuPackedWeight::Pack(pool, w.view(), WeightFormat::kBf16, WeightShape::kGateUp)
                .status()
                .code(),
            absl::StatusCode::kInvalidArgument);
  // More inputs than an int32 sum of products can take.
  const Matrix<const Bf16> wide{w.view().data, 1, 65537, 65537};
  EXPECT_EQ(
      CpuPackedWeight::Pack(pool, wide, WeightFormat::kInt8, WeightShape::kPlain).status().code(),
      absl::StatusCode::kInvalidArgument);
}

TEST(PackedWeight, Bf16IsKeptAsItIsAndPaddingIsZero) {
  for (WeightShape shape : {WeightShape::kPlain, WeightShape::kGateUp}) {
    const int64_t rows = 150, k = 45;
    const auto w = RandomBf16(21, rows, k, 1, 2);
    const auto packed = Pack(w, WeightFormat::kBf16, shape);
    int64_t lines = 0, filled = 0, expected = 0;
    for (int64_t b = 0; b < packed->blocks(); ++b) {
      for (int64_t s = 0; s < packed->steps(); ++s) {
        for (int64_t l = 0; l < packed->step().lines; ++l, ++lines) {
          const uint8_t* line = packed->Lines(b, s) + l * packed->LineStride(b);
          EXPECT_EQ(reinterpret_cast<uintptr_t>(line) % 64, 0u);
          for (int i = 0; i < 64; i += 2) filled += line[i] != 0 || line[i + 1] != 0;
        }
      }
    }
    EXPECT_EQ(lines * 64, static_cast<int64_t>(packed->bytes()));
    const UnpackedWeight unpacked = Unpack(*packed);
    for (int64_t n = 0; n < rows; ++n) {
      for (int64_t i = 0; i < k; ++i) {
        ASSERT_EQ(unpacked.at(n, i), ToFloat(w.at(n, i))) << n << " " << i;
        expected += w.at(n, i).bits != 0;
      }
    }
    EXPECT_EQ(filled, expected);
  }
}

// The largest error each format may make with one weight, given its scale and offset.
double ErrorBound(WeightFormat format, double w, double scale, double offset) {
  switch (format) {
    case WeightFormat::kBf16:
      return 0;
    case WeightFormat::kFp8:  // the division by the scale is rounded, too
      return std::max(0x1p-4 * std::abs(w), 0x1p-10 * scale) * (1 + 0x1p-20);
    case WeightFormat::kInt8:
      return scale / 2 * (1 + 0x1p-16);
    case WeightFormat::kInt4:  // 6 % of 15 codes may be cut off at each end, and bf16 rounds
      return 1.1 * scale + 0x1p-8 * std::abs(offset);
  }
  return 0;
}

TEST(PackedWeight, QuantisedWeightsAreWithinTheFormatsErrorOfTheOriginal) {
  for (WeightFormat format : kFormats) {
    for (float magnitude : {1e-30f, 1e-4f, 1.0f, 1e18f}) {
      for (WeightShape shape : {WeightShape::kPlain, WeightShape::kGateUp}) {
        auto w = RandomBf16(22, 54, 200, magnitude, 3);
        std::fill_n(&w.at(7, 0), 200, Bf16{});  // a row of zeros
        std::fill_n(&w.at(8, 0), 200, ToBf16(magnitude));
        for (int64_t i = 0; i < 200; ++i) {
          w.at(9, i) = ToBf16(ToFloat(w.at(9, i)) * std::exp2(-0.1f * i));
        }
        const UnpackedWeight unpacked = Unpack(*Pack(w, format, shape));
        EXPECT_EQ(unpacked.rotated, format == WeightFormat::kInt8);
        for (int64_t n = 0; n < w.rows(); ++n) {
          std::vector<double> exact(w.cols());
          for (int64_t k = 0; k < w.cols(); ++k) exact[k] = ToFloat(w.at(n, k));
          if (unpacked.rotated) exact = Rotated(w, n);
          ASSERT_EQ(unpacked.k(), static_cast<int64_t>(exact.size()));
          for (int64_t k = 0; k < unpacked.k(); ++k) {
            ASSERT_NEAR(unpacked.at(n, k), exact[k],
                        ErrorBound(format, exact[k], unpacked.scales[n][k], unpacked.offsets[n][k]))
                << WeightFormatName(format) << " " << magnitude << " " << n << " " << k;
          }
        }
      }
    }
  }
}

TEST(PackedWeight, Int4ErrorIsSmallOnAverage) {
  const auto w = RandomBf16(23, 64, 256);
  const UnpackedWeight unpacked = Unpack(*Pack(w, WeightFormat::kInt4));
  double error = 0, power = 0;
  for (int64_t n = 0; n < w.rows(); ++n) {
    for (int64_t k = 0; k < w.cols(); ++k) {
      const double exact = ToFloat(w.at(n, k));
      error += (unpacked.at(n, k) - exact) * (unpacked.at(n, k) - exact);
      power += exact * exact;
    }
  }
  // Sixteen levels over a uniform distribution: 1 / 16^2 of its power.
  EXPECT_LT(error / power, 1.1 / 256);
  EXPECT_GT(error / power, 0.5 / 256);
}

TEST(PackedWeight, Int4KeepsWhatHasSixteenLevelsInEveryGroup) {
  TestMatrix<Bf16> w(20, 96);
  for (int64_t n = 0; n < 20; ++n) {
    for (int64_t k = 0; k < 96; ++k) {
      w.at(n, k) = ToBf16((static_cast<float>((k * 7 + n) % 16) - 5.0f) * 0.25f);
    }
  }
  const UnpackedWeight unpacked = Unpack(*Pack(w, WeightFormat::kInt4));
  for (int64_t n = 0; n < 20; ++n) {
    for (int64_t k = 0; k < 96; ++k) ASSERT_EQ(unpacked.at(n, k), ToFloat(w.at(n, k)));
  }
}

TEST(PackedWeight, Fp8TakesAScaleNoWorseThanTheLargestWeightDictates) {
  const auto w = RandomBf16(27, 32, 300);
  const UnpackedWeight unpacked = Unpack(*Pack(w, WeightFormat::kFp8));
  for (int64_t n = 0; n < w.rows(); ++n) {
    float largest = 0;
    for (int64_t k = 0; k < w.cols(); ++k)
      largest = std::max(largest, std::fabs(ToFloat(w.at(n, k))));
    const float plain = largest / 448;
    double error = 0, plain_error = 0;
    for (int64_t k = 0; k < w.cols(); ++k) {
      const double exact = ToFloat(w.at(n, k));
      const double rounded = ToFloat(ToFp8(ToFloat(w.at(n, k)) / plain)) * double{plain};
      error += (unpacked.at(n, k) - exact) * (unpacked.at(n, k) - exact);
      plain_error += (rounded - exact) * (rounded - exact);
    }
    EXPECT_LE(error, plain_error * (1 + 1e-4));
    EXPECT_GE(unpacked.scales[n][0], plain);
    EXPECT_LT(unpacked.scales[n][0], 2 * plain);
  }
}

// An outlier among small values: without the rotation it alone would set the scale.
TEST(PackedWeight, RotationSpreadsAnOutlier) {
  auto w = RandomBf16(24, 16, 64, 0.01f);
  for (int64_t n = 0; n < 16; ++n) w.at(n, n) = ToBf16(n % 2 == 0 ? 3.0f : -3.0f);
  const UnpackedWeight int8 = Unpack(*Pack(w, WeightFormat::kInt8));
  for (int64_t n = 0; n < 16; ++n) {
    double largest = 0;
    for (int64_t k = 0; k < 64; ++k) largest = std::max(largest, std::abs(int8.at(n, k)));
    EXPECT_LT(largest, 3.0 / 8 * 1.2);
    EXPECT_GT(largest, 3.0 / 8 * 0.9);
  }
}

TEST(PackedWeight, WeightsThatAreNotFiniteCannotBeQuantised) {
  ThreadPool pool(2, false);
  for (float bad : {std::nanf(""), std::numeric_limits<float>::infinity()}) {
    for (int64_t k : {0, 50, 99}) {
      auto w = RandomBf16(25, 40, 100);
      w.at(33, k) = ToBf16(bad);
      for (WeightFormat format : {WeightFormat::kFp8, WeightFormat::kInt8, WeightFormat::kInt4}) {
        EXPECT_EQ(
            CpuPackedWeight::Pack(pool, w.view(), format, WeightShape::kPlain).status().code(),
            absl::StatusCode::kInvalidArgument);
      }
    }
  }
}

class ReadyMade : public testing::TestWithParam<WeightFormat> {
 protected:
  static constexpr int64_t kRows = 40, kCols = 70;
  absl::StatusOr<std::unique_ptr<CpuPackedWeight>> PackCodes() {
    return CpuPackedWeight::Pack(pool_,
                                 QuantizedMatrix{.format = GetParam(),
                                                 .codes = codes_.data(),
                                                 .scales = scales_.data(),
                                                 .rows = kRows,
                                                 .cols = kCols},
                                 WeightShape::kPlain);
  }
  ThreadPool pool_{2, false};
  std::vector<uint8_t> codes_ = std::vector<uint8_t>(kRows * kCols, 3);
  std::vector<float> scales_ = std::vector<float>(kRows, 0.25f);
};
INSTANTIATE_TEST_SUITE_P(, ReadyMade, testing::Values(WeightFormat::kFp8, WeightFormat::kInt8),
                         [](const auto& info) {
                           return std::string(WeightFormatName(info.param));
                         });

TEST_P(ReadyMade, CodesAndScalesAreKept) {
  const bool fp8 = GetParam() == WeightFormat::kFp8;
  for (size_t i = 0; i < codes_.size(); ++i) {
    codes_[i] = static_cast<uint8_t>(i * 37);
    if (fp8 && IsNan(Fp8{codes_[i]})) codes_[i] = 0;
  }
  for (int64_t n = 0; n < kRows; ++n) scales_[n] = 0.5f + n;
  const auto packed = PackCodes();
  ASSERT_TRUE(packed.ok()) << packed.status();
  const UnpackedWeight unpacked = Unpack(**packed);
  for (int64_t n = 0; n < kRows; ++n) {
    for (int64_t k = 0; k < kCols; ++k) {
      const uint8_t code = codes_[n * kCols + k];
      ASSERT_EQ(unpacked.codes[n][k], fp8 ? ToFloat(Fp8{code}) : static_cast<int8_t>(code));
      ASSERT_EQ(unpacked.scales[n][k], scales_[n]);
    }
  }
}

TEST_P(ReadyMade, BadScalesAndNanCodesAreRefused) {
  for (float bad : {0.0f, -1.0f, std::nanf(""), std::numeric_limits<float>::infinity()}) {
    scales_[17] = bad;
    EXPECT_EQ(PackCodes().status().code(), absl::StatusCode::kInvalidArgument) << bad;
  }
  scales_[17] = 1;
  EXPECT_TRUE(PackCodes().ok());
  if (GetParam() != WeightFormat::kFp8) return;
  for (uint8_t nan : {0x7f, 0xff}) {
    codes_[kRows * kCols - 1] = nan;
    EXPECT_EQ(PackCodes().status().code(), absl::StatusCode::kInvalidArgument);
  }
}

TEST(PackedWeight, AFormatTakesItsOwnBytesAndNoMore) {
  const auto w = RandomBf16(26, 128, 256);
  const double weights = 128 * 256;
  EXPECT_EQ(Pack(w, WeightFormat::kBf16)->bytes(), weights * 2);
  EXPECT_EQ(Pack(w, WeightFormat::kFp8)->bytes(), weights + 128 * 4);
  EXPECT_EQ(Pack(w, WeightFormat::kInt8)->bytes(), weights + 128 * 4);
  EXPECT_EQ(Pack(w, WeightFormat::kInt4)->bytes(), weights * 5 / 8);
}

}  // namespace
}  // namespace skim
