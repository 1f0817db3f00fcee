// Row-wise ops and products.
#include <cmath>
#include <limits>

#include "tests/kernels/op_suite.h"

namespace skim {
namespace {

// For the suite's other files, too.
INSTANTIATE_TEST_SUITE_P(Backends, OpSuite, testing::Values("cpu", "cuda"),
                         [](const auto& info) { return info.param; });
INSTANTIATE_TEST_SUITE_P(Backends, ProductSuite, testing::Values("cpu", "cuda", kCublasLt),
                         [](const auto& info) { return info.param; });

constexpr float kUntouched = -12345.5f;

TestMatrix<float> RandomFloatMatrix(uint32_t seed, int64_t rows, int64_t cols,
                                    int64_t extra_stride) {
  TestMatrix<float> m(rows, cols, extra_stride, std::nanf(""));
  const std::vector<float> values = RandomFloats(seed, rows * cols);
  for (int64_t i = 0; i < rows * cols; ++i) m.at(i / cols, i % cols) = values[i];
  return m;
}

TEST_P(OpSuite, BuffersAreZeroedAtBirth) {
  for (size_t bytes : {1, 4096, 100001}) {
    const auto buffer = ops().Allocate(bytes).value();
    EXPECT_EQ(reinterpret_cast<uintptr_t>(buffer->data()) % 64, 0u);
    for (std::byte b : scene().Down(buffer->data(), bytes)) ASSERT_EQ(b, std::byte{0});
  }
  EXPECT_EQ(ops().Allocate(size_t{1} << 60).status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_TRUE(ops().Wait().ok()) << "a refused allocation is an answer, not a fault";
}

TEST_P(OpSuite, EmbedReadsTheRowsOfThePackedTable) {
  const auto table = RandomBf16(1, 37, 45, 1, 3);
  const auto packed = scene().Pack(table, WeightShape::kPlain);
  const std::vector<TokenId> tokens = {36, 0, 17, 17};
  TestMatrix<float> y(4, 45, 2, kUntouched);
  const auto device = scene().Up(y);
  ops().Embed(*packed, scene().Up(tokens), nullptr, device);
  scene().Down(device, &y);
  for (int64_t r = 0; r < 4; ++r) {
    for (int64_t c = 0; c < 45; ++c) ASSERT_EQ(y.at(r, c), ToFloat(table.at(tokens[r], c)));
    for (int64_t c = 45; c < 47; ++c) ASSERT_EQ(y.at(r, c), kUntouched);
  }
}

TEST_P(OpSuite, RmsNormDividesByTheRootOfTheMeanSquare) {
  for (int64_t cols : {1, 64, 200}) {
    const auto x = RandomFloatMatrix(2, 3, cols, 5);
    const auto weight = RandomFloats(3, cols);
    const auto y = scene().Room<Bf16>(3 * cols);
    ops().RmsNorm(scene().Up(x), scene().Up(weight), 1e-5f, {y, 3, cols, cols});
    const auto got = scene().Down(y, 3 * cols);
    for (int64_t r = 0; r < 3; ++r) {
      double squares = 0;
      for (int64_t c = 0; c < cols; ++c) squares += double{x.at(r, c)} * x.at(r, c);
      for (int64_t c = 0; c < cols; ++c) {
        const double want = x.at(r, c) / std::sqrt(squares / cols + 1e-5) * weight[c];
        ASSERT_NEAR(ToFloat(got[r * cols + c]), want, kOpTolerance.bf16_result * std::abs(want));
      }
    }
  }
}

TEST_P(OpSuite, ScatterUndoesGather) {
  const auto x = RandomFloatMatrix(4, 9, 33, 1);
  const std::vector<int32_t> index = {8, 3, 0, 5};
  const auto* device_index = scene().Up(index);
  const Matrix<float> gathered = {scene().Room<float>(4 * 33), 4, 33, 33};
  const Matrix<float> back = {scene().Room<float>(9 * 33), 9, 33, 33};
  ops().GatherRows(scene().Up(x), device_index, gathered);
  ops().ScatterRows(gathered, device_index, back);
  const auto rows = scene().Down(gathered.data, 4 * 33);
  const auto all = scene().Down(back.data, 9 * 33);
  for (int64_t r = 0; r < 9; ++r) {
    const auto found = std::find(index.begin(), index.end(), r);
    for (int64_t c = 0; c < 33; ++c) {
      ASSERT_EQ(all[r * 33 + c], found == index.end() ? 0 : x.at(r, c));
      if (found == index.end()) continue;
      ASSERT_EQ(rows[(found - index.begin()) * 33 + c], x.at(r, c));
    }
  }
}

struct Product {
  double value = 0, magnitude = 0;
};

Product Dot(const TestMatrix<Bf16>& x, int64_t r, const TestMatrix<Bf16>& w, int64_t n,
            double bias) {
  Product p = {bias, std::abs(bias)};
  for (int64_t k = 0; k < x.cols(); ++k) {
    const double term = double{ToFloat(x.at(r, k))} * ToFloat(w.at(n, k));
    p.value += term;
    p.magnitude += std::abs(term);
  }
  return p;
}

struct LinearShape {
  int64_t m, n, k, extra_stride;
};
// The last two: deep enough to come back to a buffer that was read before, and rows enough for a
// library to be asked.
constexpr LinearShape kLinearShapes[] = {{1, 7, 5, 3},    {3, 33, 17, 0},  {1, 16, 32, 0},
                                         {2, 18, 200, 8}, {17, 10, 96, 0}, {5, 40, 136, 1},
                                         {2, 10, 520, 0}, {70, 20, 72, 8}};

TEST_P(ProductSuite, LinearIsTheProductPlusBiasPlusWhatWasThere) {
  for (const LinearShape& s : kLinearShapes) {
    for (bool accumulate : {false, true}) {
      const auto x = RandomBf16(5, s.m, s.k, 1, s.extra_stride);
      const auto w = RandomBf16(6, s.n, s.k, 0.1f, 2);
      const auto bias = RandomFloats(7, s.n);
      const auto packed = scene().Pack(w, WeightShape::kPlain);
      TestMatrix<float> y(s.m, s.n, 3, kUntouched);
      const auto before = RandomFloats(8, s.m * s.n);
      for (int64_t i = 0; accumulate && i < s.m * s.n; ++i) y.at(i / s.n, i % s.n) = before[i];
      const auto device = scene().Up(y);
      ops().Linear(scene().Up(x), *packed, scene().Up(bias), accumulate, device);
      scene().Down(device, &y);
      for (int64_t r = 0; r < s.m; ++r) {
        for (int64_t n = 0; n < s.n; ++n) {
          Product want = Dot(x, r, w, n, bias[n]);
          if (accumulate) want.value += before[r * s.n + n];
          ASSERT_NEAR(y.at(r, n), want.value, kOpTolerance.float_sum * (want.magnitude + 1))
              << s.m << " x " << s.n << " x " << s.k << ", row " << r << " column " << n;
        }
        for (int64_t c = s.n; c < y.stride(); ++c) ASSERT_EQ(y.at(r, c), kUntouched);
      }
    }
  }
}

TEST_P(ProductSuite, LinearSwiGluGatesTheUpProjection) {
  for (const LinearShape& s : kLinearShapes) {
    const auto x = RandomBf16(9, s.m, s.k, 1, s.extra_stride);
    const auto w = RandomBf16(10, 2 * s.n, s.k, 0.2f);
    const auto bias = RandomFloats(11, 2 * s.n);
    const auto packed = scene().Pack(w, WeightShape::kGateUp);
    for (const bool with_bias : {false, true}) {
      auto* y = scene().Room<Bf16>(s.m * s.n);
      ops().LinearSwiGlu(scene().Up(x), *packed, with_bias ? scene().Up(bias) : nullptr,
                         {y, s.m, s.n, s.n});
      const auto got = scene().Down(y, s.m * s.n);
      for (int64_t i = 0; i < s.m * s.n; ++i) {
        const int64_t r = i / s.n, n = i % s.n;
        const Product gate = Dot(x, r, w, n, with_bias ? bias[n] : 0);
        const Product up = Dot(x, r, w, s.n + n, with_bias ? bias[s.n + n] : 0);
        const double want = gate.value / (1 + std::exp(-gate.value)) * up.value;
        const double bound = kOpTolerance.bf16_result * std::abs(want) +
                             kOpTolerance.float_sum * (gate.magnitude + 1) * (up.magnitude + 1);
        ASSERT_NEAR(ToFloat(got[i]), want, bound) << "row " << r << " column " << n;
      }
    }
  }
}

TEST_P(OpSuite, ARowOfAProductDoesNotDependOnTheOthers) {
  constexpr int64_t kRows = 83;
  const auto x = RandomBf16(12, kRows, 152), w = RandomBf16(13, 24, 152, 0.1f);
  const auto packed = scene().Pack(w, WeightShape::kPlain);
  const auto device_x = scene().Up(x);
  const Matrix<float> all = {scene().Room<float>(kRows * 24), kRows, 24, 24};
  ops().Linear(device_x, *packed, nullptr, false, all);
  const auto together = scene().Down(all.data, kRows * 24);
  for (int64_t r : {0, 7, 16, 40, 63, 64, 82}) {
    const Matrix<float> one = {scene().Room<float>(24), 1, 24, 24};
    ops().Linear(device_x.Rows(r, 1), *packed, nullptr, false, one);
    const auto alone = scene().Down(one.data, 24);
    for (int64_t n = 0; n < 24; ++n) ASSERT_EQ(alone[n], together[r * 24 + n]);
  }
}

TEST_P(OpSuite, LinearAtIsTheProductWithTheRowsThatAreNamed) {
  constexpr int64_t kRows = 3, kPicked = 21, kTable = 45;
  for (const int64_t k : {5, 48, 152}) {
    const auto x = RandomBf16(15, kRows, k, 1, 2), table = RandomBf16(16, kTable, k, 0.3f, 1);
    const auto packed = scene().Pack(table, WeightShape::kPlain);
    std::vector<int32_t> index;
    for (int32_t i = 0; i < kRows * kPicked; ++i) index.push_back(i % 5 == 3 ? -1 : i * 7 % kTable);
    const auto device_x = scene().Up(x);
    const auto* device_index = scene().Up(index);
    TestMatrix<float> y(kRows, kPicked, 3, kUntouched);
    const auto device = scene().Up(y);
    ops().LinearAt(device_x, *packed, device_index, 1.5f, device);
    scene().Down(device, &y);
    for (int64_t r = 0; r < kRows; ++r) {
      for (int64_t c = 0; c < kPicked; ++c) {
        const int32_t row = index[r * kPicked + c];
        if (row < 0) {
          ASSERT_EQ(y.at(r, c), -std::numeric_limits<float>::infinity());
          continue;
        }
        const Product want = Dot(x, r, table, row, 1.5);
        ASSERT_NEAR(y.at(r, c), want.value, kOpTolerance.float_sum * (want.magnitude + 1))
            << "row " << r << " column " << c;
      }
      for (int64_t c = kPicked; c < y.stride(); ++c) ASSERT_EQ(y.at(r, c), kUntouched);
      // Alone it is the same, to the bit.
      const Matrix<float> one = {scene().Room<float>(kPicked), 1, kPicked, kPicked};
      ops().LinearAt(device_x.Rows(r, 1), *packed, device_index + r * kPicked, 1.5f, one);
      const auto alone = scene().Down(one.data, kPicked);
      for (int64_t c = 0; c < kPicked; ++c) ASSERT_EQ(alone[c], y.at(r, c));
    }
  }
}

TEST_P(OpSuite, RefusesWeightsItCannotPack) {
  const auto w = RandomBf16(14, 5, 8);
  for (const auto& [matrix, shape] : {std::pair{Matrix<const Bf16>{}, WeightShape::kPlain},
                                      std::pair{w.view(), WeightShape::kGateUp}}) {
    EXPECT_EQ(ops().PackWeight(matrix, WeightFormat::kBf16, shape).status().code(),
              absl::StatusCode::kInvalidArgument);
  }
}

}  // namespace
}  // namespace skim
