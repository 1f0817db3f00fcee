#include "kernels/cpu/norm.h"

#include <cmath>
#include <cstring>
#include <string>

#include "gtest/gtest.h"
#include "random_matrix.h"

namespace skim {
namespace {

class RmsNormOn : public testing::TestWithParam<Isa> {};

TEST_P(RmsNormOn, AgreesWithDoublePrecisionForAnyWidth) {
  for (int64_t cols : {1, 15, 16, 63, 64, 65, 576, 1000, 2048}) {
    const int64_t rows = 3, stride = cols + 5;
    const std::vector<float> x = RandomFloats(static_cast<uint32_t>(cols), rows * stride);
    const std::vector<float> weight = RandomFloats(2, cols);
    TestMatrix<Bf16> y(rows, cols, 3, Bf16{0x1234});
    ThreadPool pool(2, false);
    CpuRmsNorm(pool, GetParam(), {x.data(), rows, cols, stride}, weight.data(), 1e-5f, y.view());
    for (int64_t r = 0; r < rows; ++r) {
      double squares = 0;
      for (int64_t c = 0; c < cols; ++c) squares += std::pow(double{x[r * stride + c]}, 2);
      const double inverse = 1 / std::sqrt(squares / static_cast<double>(cols) + 1e-5);
      for (int64_t c = 0; c < cols; ++c) {
        const double want = x[r * stride + c] * inverse * weight[c];
        ASSERT_NEAR(ToFloat(y.at(r, c)), want, 0x1.01p-8 * std::abs(want) + 1e-30) << cols;
      }
      for (int64_t c = cols; c < y.stride() && r + 1 < rows; ++c) {
        ASSERT_EQ(y.at(r, c).bits, 0x1234) << "wrote past the row";
      }
    }
  }
}

TEST_P(RmsNormOn, GivesARowTheSameBitsAloneAndInABatch) {
  const int64_t rows = 37, cols = 576;
  const std::vector<float> x = RandomFloats(3, rows * cols), weight = RandomFloats(4, cols);
  TestMatrix<Bf16> alone(rows, cols);
  ThreadPool single(1, false);
  for (int64_t r = 0; r < rows; ++r) {
    CpuRmsNorm(single, GetParam(), {x.data() + r * cols, 1, cols, cols}, weight.data(), 1e-6f,
               alone.view().Rows(r, 1));
  }
  for (int threads : {1, 2, 3}) {
    ThreadPool pool(threads, false);
    TestMatrix<Bf16> together(rows, cols);
    CpuRmsNorm(pool, GetParam(), {x.data(), rows, cols, cols}, weight.data(), 1e-6f,
               together.view());
    ASSERT_EQ(std::memcmp(alone.view().data, together.view().data, rows * cols * sizeof(Bf16)), 0);
  }
}

TEST_P(RmsNormOn, LeavesARowOfZerosAtZero) {
  const std::vector<float> x(64), weight(64, 2.0f);
  TestMatrix<Bf16> y(1, 64, 0, Bf16{0x7fc0});
  ThreadPool pool(1, false);
  CpuRmsNorm(pool, GetParam(), {x.data(), 1, 64, 64}, weight.data(), 1e-5f, y.view());
  for (int64_t c = 0; c < 64; ++c) EXPECT_EQ(ToFloat(y.at(0, c)), 0);
}

INSTANTIATE_TEST_SUITE_P(Paths, RmsNormOn, testing::ValuesIn(SupportedIsas()),
                         [](const auto& info) { return std::string(IsaName(info.param)); });

}  // namespace
}  // namespace skim
