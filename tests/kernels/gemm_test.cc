#include "kernels/cpu/gemm.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <limits>
#include <memory>

#include "tests/kernels/gemm_paths.h"
#include "tests/kernels/random_matrix.h"
#include "tests/kernels/weight_oracle.h"

namespace skim {
namespace {

constexpr float kUntouched = -12345.5f;

struct Shape {
  int64_t n, k;
};

struct GemmCase {
  GemmPath path;
  WeightFormat format;

  friend void PrintTo(const GemmCase& c, std::ostream* out) {
    *out << c.path.name << " " << WeightFormatName(c.format);
  }
};

std::vector<GemmCase> GemmCases() {
  std::vector<GemmCase> cases;
  for (const GemmPath& path : GemmPaths()) {
    for (int f = 0; f < kWeightFormats; ++f) cases.push_back({path, static_cast<WeightFormat>(f)});
  }
  return cases;
}

std::string NameOf(std::string name) {
  std::replace(name.begin(), name.end(), ' ', '_');
  return name;
}

class GemmTest : public testing::TestWithParam<GemmCase> {
 protected:
  const GemmKernels& kernels() const { return *GetParam().path.kernels; }
  WeightFormat format() const { return GetParam().format; }
  bool slow() const { return GetParam().path.slow; }

  std::unique_ptr<CpuPackedWeight> Pack(const TestMatrix<Bf16>& w, WeightShape shape) const {
    ThreadPool pool(2, false);
    auto packed = CpuPackedWeight::Pack(pool, w.view(), format(), shape);
    EXPECT_TRUE(packed.ok()) << packed.status();
    return *std::move(packed);
  }

  TestMatrix<float> Linear(int threads, Matrix<const Bf16> x, const CpuPackedWeight& w,
                           const float* bias = nullptr, int64_t extra_stride = 0) const {
    ThreadPool pool(threads, false);
    Gemm gemm(&pool, kernels());
    TestMatrix<float> y(x.rows, w.out_features(), extra_stride, kUntouched);
    gemm.Linear(x, w, bias, false, y.view());
    return y;
  }

  TestMatrix<Bf16> SwiGlu(int threads, Matrix<const Bf16> x, const CpuPackedWeight& w,
                          const float* bias, int64_t extra_stride = 0) const {
    ThreadPool pool(threads, false);
    Gemm gemm(&pool, kernels());
    TestMatrix<Bf16> y(x.rows, w.out_features() / 2, extra_stride, ToBf16(kUntouched));
    gemm.LinearSwiGlu(x, w, bias, y.view());
    return y;
  }
};

INSTANTIATE_TEST_SUITE_P(, GemmTest, testing::ValuesIn(GemmCases()), [](const auto& info) {
  return NameOf(info.param.path.name + " " + std::string(WeightFormatName(info.param.format)));
});

class GemmPathTest : public testing::TestWithParam<GemmPath> {
 protected:
  const GemmKernels& kernels() const { return *GetParam().kernels; }
};
INSTANTIATE_TEST_SUITE_P(, GemmPathTest, testing::ValuesIn(GemmPaths()),
                         [](const auto& info) { return NameOf(info.param.name); });

bool SameBits(float a, float b) { return std::bit_cast<uint32_t>(a) == std::bit_cast<uint32_t>(b); }

TEST_P(GemmTest, LinearIsWithinRoundingOfTheExactProduct) {
  for (Shape s : {Shape{7, 5},
                  {1, 1},
                  {33, 17},
                  {16, 32},
                  {64, 64},
                  {65, 31},
                  {130, 1101},
                  {192, 576},
                  {576, 192},
                  {50, 2100}}) {
    for (int64_t m : {1, 2, 3, 6, 7, 13, 17, 35}) {
      if (slow() && s.n * s.k * m > 2000000) continue;
      SCOPED_TRACE(testing::Message() << "n " << s.n << " k " << s.k << " m " << m);
      const auto x = RandomBf16(1, m, s.k, 1, 3);
      const auto w = RandomBf16(2, s.n, s.k, 0.1f, 5);
      const auto bias = RandomFloats(3, s.n);
      const auto packed = Pack(w, WeightShape::kPlain);
      const auto y = Linear(2, x.view(), *packed, bias.data(), 9);
      const UnpackedWeight exact = Unpack(*packed);
      for (int64_t r = 0; r < m; ++r) {
        const auto input = InputOf(exact, x, r);
        for (int64_t n = 0; n < s.n; ++n) {
          const Exact e = ExactDot(input, exact, n, bias.data());
          ASSERT_NEAR(y.at(r, n), e.value, e.bound) << "row " << r << " column " << n;
        }
        for (int64_t c = s.n; c < y.stride(); ++c) ASSERT_EQ(y.at(r, c), kUntouched);
      }
    }
  }
}

TEST_P(GemmTest, LinearOfAVocabularyIsWithinRounding) {
  const int64_t vocabulary = slow() ? 3072 : 49152, k = 576, m = 3;
  const auto x = RandomBf16(1, m, k);
  const auto w = RandomBf16(2, vocabulary, k, 0.1f);
  const auto packed = Pack(w, WeightShape::kPlain);
  const auto y = Linear(2, x.view(), *packed);
  const UnpackedWeight exact = Unpack(*packed);
  for (int64_t r = 0; r < m; ++r) {
    const auto input = InputOf(exact, x, r);
    for (int64_t n = 0; n < vocabulary; n += 7) {
      const Exact e = ExactDot(input, exact, n, nullptr);
      ASSERT_NEAR(y.at(r, n), e.value, e.bound) << "row " << r << " column " << n;
    }
  }
}

TEST_P(GemmTest, AccumulateAddsTheProductToTheResidualLast) {
  for (Shape s : {Shape{33, 17}, {80, 1120}}) {
    const int64_t m = 9;
    const auto x = RandomBf16(4, m, s.k);
    const auto w = RandomBf16(5, s.n, s.k, 0.1f);
    const auto bias = RandomFloats(6, s.n);
    const auto packed = Pack(w, WeightShape::kPlain);
    const auto product = Linear(1, x.view(), *packed, bias.data());
    ThreadPool pool(2, false);
    Gemm gemm(&pool, kernels());
    const auto residual = RandomFloats(7, m * s.n);
    TestMatrix<float> y(m, s.n, 4, kUntouched);
    for (int64_t i = 0; i < m * s.n; ++i) y.at(i / s.n, i % s.n) = residual[i];
    gemm.Linear(x.view(), *packed, bias.data(), true, y.view());
    for (int64_t r = 0; r < m; ++r) {
      for (int64_t n = 0; n < s.n; ++n) {
        ASSERT_TRUE(SameBits(y.at(r, n), residual[r * s.n + n] + product.at(r, n)));
      }
      for (int64_t c = s.n; c < y.stride(); ++c) ASSERT_EQ(y.at(r, c), kUntouched);
    }
  }
}

// G1: the bits of a row depend on the row alone.
TEST_P(GemmTest, ARowHasTheSameBitsInEveryBatchAtEveryPlaceOnAnyNumberOfThreads) {
  const std::vector<Shape> shapes = slow() ? std::vector<Shape>{{33, 17}, {52, 290}}
                                           : std::vector<Shape>{{33, 17}, {192, 576}, {100, 2100}};
  std::vector<int64_t> batches = {100};
  for (int64_t m = 1; m <= 40; ++m) batches.push_back(m);
  if (!slow()) batches.push_back(257);
  for (Shape s : shapes) {
    const int64_t distinct = 23;
    const auto x = RandomBf16(8, distinct, s.k, 1, 2);
    const auto w = RandomBf16(9, s.n, s.k, 0.1f);
    const auto packed = Pack(w, WeightShape::kPlain);
    TestMatrix<float> alone(distinct, s.n);
    for (int64_t r = 0; r < distinct; ++r) {
      const auto y = Linear(1, x.view().Rows(r, 1), *packed);
      std::copy_n(&y.at(0, 0), s.n, &alone.at(r, 0));
    }
    for (int threads : {1, 2, 3}) {
      for (int64_t m : batches) {
        TestMatrix<Bf16> batch(m, s.k);
        const int64_t shift = m * 5 + threads;  // every row meets many places
        for (int64_t r = 0; r < m; ++r) {
          std::copy_n(&x.at((r + shift) % distinct, 0), s.k, &batch.at(r, 0));
        }
        const auto y = Linear(threads, batch.view(), *packed);
        for (int64_t r = 0; r < m; ++r) {
          for (int64_t n = 0; n < s.n; ++n) {
            ASSERT_TRUE(SameBits(y.at(r, n), alone.at((r + shift) % distinct, n)))
                << "n " << s.n << " k " << s.k << " m " << m << " threads " << threads << " row "
                << r << " column " << n;
          }
        }
      }
    }
    const auto range = Linear(2, x.view().Rows(3, 11), *packed);
    for (int64_t r = 0; r < 11; ++r) {
      for (int64_t n = 0; n < s.n; ++n) ASSERT_TRUE(SameBits(range.at(r, n), alone.at(r + 3, n)));
    }
  }
}

TEST_P(GemmTest, NonFiniteRowsStayAmongThemselves) {
  const int64_t m = 14, n = 70, k = 100;
  auto x = RandomBf16(10, m, k);
  const auto w = RandomBf16(11, n, k);
  const auto packed = Pack(w, WeightShape::kPlain);
  const auto clean = Linear(1, x.view(), *packed);
  x.at(2, 50) = ToBf16(std::nanf(""));
  x.at(9, 99) = ToBf16(std::numeric_limits<float>::infinity());
  const auto y = Linear(2, x.view(), *packed);
  for (int64_t c = 0; c < n; ++c) {
    EXPECT_TRUE(std::isnan(y.at(2, c)));
    EXPECT_FALSE(std::isfinite(y.at(9, c)));
    for (int64_t r = 0; r < m; ++r) {
      if (r == 2 || r == 9) continue;
      ASSERT_TRUE(SameBits(y.at(r, c), clean.at(r, c)));
    }
  }
}

TEST_P(GemmTest, SwiGluIsWithinRoundingOfTheExactFunction) {
  for (Shape s : {Shape{2, 1}, {14, 5}, {66, 33}, {128, 64}, {200, 300}, {384, 576}}) {
    for (int64_t m : {1, 5, 18}) {
      if (slow() && s.n * s.k * m > 2000000) continue;
      SCOPED_TRACE(testing::Message() << "n " << s.n << " k " << s.k << " m " << m);
      const auto x = RandomBf16(12, m, s.k, 1, 1);
      const auto w = RandomBf16(13, s.n, s.k, 0.2f);
      const auto bias = RandomFloats(14, s.n);
      const auto packed = Pack(w, WeightShape::kGateUp);
      const UnpackedWeight unpacked = Unpack(*packed);
      for (const float* b : {static_cast<const float*>(nullptr), bias.data()}) {
        const auto y = SwiGlu(2, x.view(), *packed, b, 5);
        const int64_t half = s.n / 2;
        for (int64_t r = 0; r < m; ++r) {
          const auto input = InputOf(unpacked, x, r);
          for (int64_t n = 0; n < half; ++n) {
            const Exact gate = ExactDot(input, unpacked, n, b);
            const Exact up = ExactDot(input, unpacked, half + n, b);
            const double silu = gate.value / (1 + std::exp(-gate.value));
            // |silu'| <= 1.1; bf16 rounds to 2^-8, the exponential and division to 2^-20.
            const double bound = 1.1 * gate.bound * (std::abs(up.value) + up.bound) +
                                 std::abs(silu) * up.bound +
                                 (0x1p-8 + 0x1p-20) * 1.01 * std::abs(silu * up.value) + 1e-30;
            ASSERT_NEAR(ToFloat(y.at(r, n)), silu * up.value, bound) << "row " << r << " " << n;
          }
          for (int64_t c = half; c < y.stride(); ++c) {
            ASSERT_EQ(y.at(r, c).bits, ToBf16(kUntouched).bits);
          }
        }
      }
    }
  }
}

TEST_P(GemmTest, SwiGluOfARowHasTheSameBitsInEveryBatch) {
  const Shape s = slow() ? Shape{70, 65} : Shape{330, 600};
  const int64_t distinct = 19;
  const auto x = RandomBf16(15, distinct, s.k);
  const auto w = RandomBf16(16, s.n, s.k, 0.1f);
  const auto packed = Pack(w, WeightShape::kGateUp);
  TestMatrix<Bf16> alone(distinct, s.n / 2);
  for (int64_t r = 0; r < distinct; ++r) {
    const auto y = SwiGlu(1, x.view().Rows(r, 1), *packed, nullptr);
    std::copy_n(&y.at(0, 0), s.n / 2, &alone.at(r, 0));
  }
  for (int threads : {1, 2, 3}) {
    for (int64_t m = 1; m <= distinct; ++m) {
      const int64_t first = distinct - m;
      const auto y = SwiGlu(threads, x.view().Rows(first, m), *packed, nullptr);
      for (int64_t r = 0; r < m; ++r) {
        for (int64_t n = 0; n < s.n / 2; ++n) {
          ASSERT_EQ(y.at(r, n).bits, alone.at(first + r, n).bits);
        }
      }
    }
  }
}

// Through the epilogue: the whole range of gates, each in every lane.
TEST_P(GemmPathTest, SiluIsTheSameInEveryLaneAndRightAtTheEnds) {
  const float infinity = std::numeric_limits<float>::infinity();
  std::vector<float> gates = {0,    -0.0f, 1e-30f, -1e-30f,  88,    -88, 89, -89,   104,
                              -104, 200,   -200,   infinity, 3e38f, -20, 20, 0.35f, -0.35f};
  for (float g = -90; g < 30; g += 0.37f) gates.push_back(g);
  for (float gate : gates) {
    float acc[kTileColumns];
    for (int c = 0; c < kTileColumns; ++c) acc[c] = c / 16 % 2 == 0 ? gate : 1.0f;
    uint16_t first = 0;
    for (int64_t columns = 1; columns <= 32; ++columns) {
      uint16_t y[33];
      std::fill_n(y, 33, uint16_t{0x1234});
      kernels().store_swiglu({.acc = acc,
                              .gate_bias = nullptr,
                              .up_bias = nullptr,
                              .y = y,
                              .y_stride = 32,
                              .rows = 1,
                              .columns = columns});
      if (columns == 1) first = y[0];
      for (int64_t c = 0; c < columns; ++c) ASSERT_EQ(y[c], first) << gate << " lane " << c;
      ASSERT_EQ(y[columns], 0x1234);
    }
    const double exact = std::isinf(gate) ? gate : gate / (1 + std::exp(-double{gate}));
    const float got = ToFloat(Bf16{first});
    if (std::isinf(exact)) {
      ASSERT_EQ(got, exact);
    } else {
      ASSERT_NEAR(got, exact, std::abs(exact) * 0x1.02p-8 + 1e-36) << gate;
    }
  }
}

TEST_P(GemmPathTest, SiluOfNanIsNan) {
  float acc[kTileColumns];
  std::fill_n(acc, kTileColumns, std::nanf(""));
  uint16_t y[32];
  kernels().store_swiglu({.acc = acc,
                          .gate_bias = nullptr,
                          .up_bias = nullptr,
                          .y = y,
                          .y_stride = 32,
                          .rows = 1,
                          .columns = 32});
  for (uint16_t bits : y) EXPECT_TRUE(std::isnan(ToFloat(Bf16{bits})));
}

TEST_P(GemmTest, NoRowsIsNoWork) {
  const auto w = RandomBf16(17, 20, 40);
  const auto packed = Pack(w, WeightShape::kPlain);
  EXPECT_EQ(Linear(2, Matrix<const Bf16>{nullptr, 0, 40, 40}, *packed).rows(), 0);
}

// Codes and sums are integers, what remains is the same sequence of roundings.
TEST_P(GemmPathTest, Int8ProductsAndQuantisedRowsAreTheSameOnEveryPath) {
  const int64_t m = 5, n = 70, k = 333;
  auto x = RandomBf16(18, m, k, 1, 3);
  x.at(1, 8) = ToBf16(40);
  std::fill_n(&x.at(2, 0), k, Bf16{});
  const auto w = RandomBf16(19, n, k);
  ThreadPool pool(1, false);
  const auto packed =
      *CpuPackedWeight::Pack(pool, w.view(), WeightFormat::kInt8, WeightShape::kPlain);
  TestMatrix<float> y(m, n), plain(m, n);
  Gemm(&pool, kernels()).Linear(x.view(), *packed, nullptr, false, y.view());
  Gemm(&pool, kGemmPlain).Linear(x.view(), *packed, nullptr, false, plain.view());
  for (int64_t r = 0; r < m; ++r) {
    for (int64_t c = 0; c < n; ++c) ASSERT_TRUE(SameBits(y.at(r, c), plain.at(r, c)));
  }
  for (int64_t c = 0; c < n; ++c) ASSERT_EQ(y.at(2, c), 0);
}

// What every path must agree on bit for bit, and be right about.
struct QuantizedRow {
  std::vector<int> codes;
  std::vector<float> scales;  // of the row, or of each group
  std::vector<double> sums;   // of the codes, x the scale for groups
};

QuantizedRow QuantizeWith(const GemmKernels& kernels, const TestMatrix<Bf16>& x, bool grouped,
                          bool rotate) {
  const int64_t padded = (x.cols() + 63) / 64 * 64;
  alignas(64) int8_t codes[256];
  std::fill_n(codes, 256, int8_t{99});
  const auto* from = reinterpret_cast<const uint16_t*>(x.view().data);
  QuantizedRow row;
  if (grouped) {
    std::vector<InputGroup> groups(padded / kInt4Group);
    kernels.quantize_groups({from, x.cols(), padded, codes, groups.data()});
    for (const InputGroup& group : groups) {
      row.scales.push_back(group.scale);
      row.sums.push_back(group.sum);
    }
  } else {
    float scale;
    int32_t sum;
    kernels.quantize_row({from, x.cols(), padded, rotate, codes, &scale, &sum});
    row.scales = {scale};
    row.sums = {double(sum)};
  }
  row.codes.assign(codes, codes + padded);
  return row;
}

TEST_P(GemmPathTest, RowsAndGroupsAreQuantisedByTheirOwnMaximum) {
  for (int64_t columns : {1, 15, 16, 31, 64, 70, 200}) {
    for (float magnitude : {1e-28f, 1e-5f, 1.0f, 1e30f}) {
      for (int mode = 0; mode < 3; ++mode) {
        const bool grouped = mode == 1, rotate = mode == 2;
        const auto x = RandomBf16(31, 1, columns, magnitude, 5);
        const QuantizedRow row = QuantizeWith(kernels(), x, grouped, rotate);
        const QuantizedRow plain = QuantizeWith(kGemmPlain, x, grouped, rotate);
        EXPECT_EQ(row.codes, plain.codes);
        EXPECT_EQ(row.scales, plain.scales);
        EXPECT_EQ(row.sums, plain.sums);
        std::vector<double> exact = Rotated(x, 0);
        if (!rotate) {
          for (size_t k = 0; k < exact.size(); ++k) {
            exact[k] = static_cast<int64_t>(k) < columns ? ToFloat(x.at(0, k)) : 0;
          }
        }
        const size_t group = exact.size() / row.scales.size();
        for (size_t begin = 0; begin < exact.size(); begin += group) {
          const double scale = row.scales[begin / group];
          double sum = 0;
          int extreme = 0;
          for (size_t k = begin; k < begin + group; ++k) {
            ASSERT_NEAR(row.codes[k] * scale, exact[k], scale * 0.5001) << k;
            sum += row.codes[k] * (grouped ? scale : 1);
            extreme = std::max(extreme, std::abs(row.codes[k]));
          }
          EXPECT_EQ(extreme, scale == 0 ? 0 : 127);
          EXPECT_NEAR(row.sums[begin / group], sum, std::abs(sum) * 1e-6 + 1e-9 * scale);
        }
      }
    }
  }
}

TEST_P(GemmPathTest, WhatIsNotFiniteHasTheScaleNanAndNoCodes) {
  const float infinity = std::numeric_limits<float>::infinity();
  for (float bad : {std::nanf(""), infinity, -infinity}) {
    for (int64_t at : {0, 45, 69}) {
      auto x = RandomBf16(32, 1, 70);
      x.at(0, at) = ToBf16(bad);
      for (bool rotate : {false, true}) {
        const QuantizedRow row = QuantizeWith(kernels(), x, false, rotate);
        EXPECT_TRUE(std::isnan(row.scales[0]));
        EXPECT_EQ(std::count(row.codes.begin(), row.codes.end(), 0), 128);
        EXPECT_EQ(row.sums[0], 0);
      }
      const QuantizedRow groups = QuantizeWith(kernels(), x, true, false);
      for (int64_t g = 0; g < 4; ++g) {
        EXPECT_EQ(std::isnan(groups.scales[g]), g == at / 32);
        EXPECT_EQ(std::isnan(groups.sums[g]), g == at / 32);
      }
    }
  }
}

TEST_P(GemmPathTest, SubnormalFp8CodesCount) {
  ThreadPool pool(1, false);
  const int64_t n = 16, k = 32;
  std::vector<uint8_t> codes(n * k);
  for (size_t i = 0; i < codes.size(); ++i) codes[i] = static_cast<uint8_t>(i % 8 + i % 2 * 128);
  const std::vector<float> scales(n, 1.0f);
  const auto packed = *CpuPackedWeight::Pack(
      pool, QuantizedMatrix{WeightFormat::kFp8, codes.data(), scales.data(), n, k},
      WeightShape::kPlain);
  for (int64_t i = 0; i < k; ++i) {
    TestMatrix<Bf16> x(1, k);
    x.at(0, i) = ToBf16(1);
    TestMatrix<float> y(1, n);
    Gemm(&pool, kernels()).Linear(x.view(), *packed, nullptr, false, y.view());
    for (int64_t c = 0; c < n; ++c) {
      const float code = static_cast<float>(codes[c * k + i] & 127) * 0x1p-9f;
      ASSERT_EQ(y.at(0, c), codes[c * k + i] > 127 ? -code : code);
    }
  }
}

// Only where there is AMX: the emulation must be what the processor does.
TEST(Gemm, AmxAndItsEmulationAgreeBitForBit) {
  const auto isas = SupportedIsas();
  if (isas.back() != Isa::kAmx) GTEST_SKIP() << "no AMX on this machine";
  const int64_t m = 37, n = 100, k = 650;
  const auto x = RandomBf16(18, m, k);
  const auto w = RandomBf16(19, n, k);
  ThreadPool pool(1, false);
  for (WeightFormat format : {WeightFormat::kBf16, WeightFormat::kFp8, WeightFormat::kInt8}) {
    const auto packed = *CpuPackedWeight::Pack(pool, w.view(), format, WeightShape::kPlain);
    TestMatrix<float> real(m, n), emulated(m, n);
    Gemm(&pool, kGemmAmx).Linear(x.view(), *packed, nullptr, false, real.view());
    Gemm(&pool, EmulatedAmxKernels()).Linear(x.view(), *packed, nullptr, false, emulated.view());
    for (int64_t i = 0; i < m * n; ++i) {
      ASSERT_TRUE(SameBits(real.at(i / n, i % n), emulated.at(i / n, i % n)))
          << WeightFormatName(format) << " " << i;
    }
  }
}

TEST(AlignedMemory, IsZeroedAlignedAndRefusesWhatDoesNotExist) {
  for (size_t bytes : {size_t{0}, size_t{1}, size_t{100}, size_t{5} << 20}) {
    auto memory = AlignedMemory::Allocate(bytes);
    ASSERT_TRUE(memory.ok());
    EXPECT_EQ(memory->size(), bytes);
    EXPECT_EQ(reinterpret_cast<uintptr_t>(memory->data()) % 64, 0u);
    for (size_t i = 0; i < bytes; i += 61) ASSERT_EQ(memory->data()[i], std::byte{0});
    if (bytes > 0) memory->data()[bytes - 1] = std::byte{1};
  }
  for (size_t bytes : {size_t{1} << 60, SIZE_MAX}) {
    EXPECT_EQ(AlignedMemory::Allocate(bytes).status().code(), absl::StatusCode::kResourceExhausted);
  }
}

}  // namespace
}  // namespace skim
