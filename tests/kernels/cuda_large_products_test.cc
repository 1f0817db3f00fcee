// Products of many rows by cuBLASLt, whose stand-in judges what it is asked for, against
// linear.cu's, which the op suite judges.
#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "kernels/cuda/large_products.h"
#include "kernels/cuda/packed_weight.h"
#include "tests/kernels/random_matrix.h"

namespace skim::cuda {
namespace {

constexpr int64_t kRows = LargeProducts::kMostRowsOfOurs + 2, kInputs = 48;
// Room for 16 features at a time, in any format.
constexpr LargeProducts::Memory kPass = {.weights = 16 * kInputs * sizeof(Bf16) + 100,
                                         .sums = 16 * kRows * sizeof(float) + 100};
constexpr WeightFormat kFormats[] = {WeightFormat::kBf16, WeightFormat::kFp8, WeightFormat::kInt8};

class CudaLargeProducts : public testing::Test {
 protected:
  void SetUp() override {
    auto runtime = Runtime::Create({.bytes = 64 << 20});
    if (runtime.status().code() == absl::StatusCode::kFailedPrecondition) {
      GTEST_SKIP() << runtime.status();
    }
    ASSERT_TRUE(runtime.ok()) << runtime.status();
    runtime_ = *std::move(runtime);
    auto products = LargeProducts::Create(runtime_.get(), kPass);
    if (products.status().code() == absl::StatusCode::kFailedPrecondition) {
      GTEST_SKIP() << products.status();
    }
    ASSERT_TRUE(products.ok()) << products.status();
    products_ = *std::move(products);
  }
  void TearDown() override {
    for (void* memory : memory_) runtime_->Free(memory);
  }

  template <typename T>
  T* Up(const std::vector<T>& host) {
    memory_.push_back(*runtime_->Allocate(host.size() * sizeof(T)));
    runtime_->Upload(memory_.back(), host.data(), host.size() * sizeof(T));
    EXPECT_TRUE(runtime_->Wait().ok());
    return static_cast<T*>(memory_.back());
  }
  template <typename T>
  std::vector<T> Down(const T* device, int64_t count) {
    std::vector<T> host(static_cast<size_t>(count));
    runtime_->Download(host.data(), device, host.size() * sizeof(T));
    const absl::Status status = runtime_->Wait();
    EXPECT_TRUE(status.ok()) << status;
    return host;
  }
  Matrix<Bf16> Up(const TestMatrix<Bf16>& m) {
    return {Up(std::vector<Bf16>(&m.at(0, 0), &m.at(0, 0) + m.rows() * m.stride())), m.rows(),
            m.cols(), m.stride()};
  }
  std::unique_ptr<CudaPackedWeight> Pack(const TestMatrix<Bf16>& w, WeightShape shape,
                                         WeightFormat format) {
    return *CudaPackedWeight::Pack(runtime_.get(), w.view(), format, shape);
  }
  // As CudaOps gives it to whoever multiplies.
  LinearInput Input(Matrix<const Bf16> x, const WeightView& w) {
    if (w.format != WeightFormat::kInt8) {
      return {reinterpret_cast<const std::byte*>(x.data), x.rows, x.cols,
              x.stride * int64_t{sizeof(Bf16)}};
    }
    const int64_t padded = w.padded_inputs();
    auto* codes = Up(std::vector<int8_t>(x.rows * padded));
    auto* scales = Up(std::vector<float>(x.rows));
    LaunchQuantizeRows(runtime_->launches(), x, padded, w.rotated, codes, scales);
    return {reinterpret_cast<const std::byte*>(codes), x.rows, padded, padded, scales};
  }
  bool Has(Matrix<const Bf16> x, const WeightView& w) {
    return products_->Has(Input(x, w), w, nullptr, nullptr);
  }

  std::unique_ptr<Runtime> runtime_;
  std::unique_ptr<LargeProducts> products_;
  std::vector<void*> memory_;
};

TEST_F(CudaLargeProducts, LinearIsOursWhateverPartOfTheWeightsIsCopiedAtATime) {
  for (const WeightFormat format : kFormats) {
    for (const int64_t features : {16, 37}) {  // one part; two and a piece that is no whole tile
      SCOPED_TRACE(testing::Message() << std::string(WeightFormatName(format)) << " " << features);
      const int64_t stride = (features + 7) / 4 * 4;
      // The second row begins on 16 bytes and no more.
      const auto x = RandomBf16(1, 1 + kRows, kInputs, 1, 8), w = RandomBf16(2, features, kInputs);
      const float* bias = Up(RandomFloats(3, features));
      const auto weight = Pack(w, WeightShape::kPlain, format);
      const LinearInput input = Input(Up(x).Rows(1, kRows), weight->view());
      const auto room = [&] {
        return Matrix<float>{Up(std::vector<float>(kRows * stride, 7)), kRows, features, stride};
      };
      const Matrix<float> ours = room(), theirs = room();
      // In this order: put, added to, and added to with a bias.
      for (const auto& [with, accumulate] :
           {std::pair{bias, false}, {nullptr, true}, {bias, true}, {nullptr, false}}) {
        ASSERT_TRUE(products_->Has(input, weight->view(), with, &theirs));
        LaunchLinear(runtime_->launches(), input, weight->view(), with, accumulate, ours);
        products_->Linear(input, weight->view(), with, accumulate, theirs);
        const auto want = Down(ours.data, kRows * stride), got = Down(theirs.data, kRows * stride);
        for (int64_t i = 0; i < kRows * stride; ++i) {
          const bool exact = format == WeightFormat::kInt8 || i % stride >= features;
          ASSERT_NEAR(got[i], want[i], exact ? 0 : 1e-5 * (std::abs(want[i]) + kInputs))
              << "row " << i / stride << " feature " << i % stride;
        }
      }
    }
  }
}

TEST_F(CudaLargeProducts, SwiGluIsOurs) {
  for (const WeightFormat format : kFormats) {
    for (const bool biased : {false, true}) {
      SCOPED_TRACE(testing::Message() << std::string(WeightFormatName(format)) << " " << biased);
      const int64_t columns = 21, stride = 23;
      const auto x = RandomBf16(4, kRows, kInputs), w = RandomBf16(5, 2 * columns, kInputs, 0.3f);
      const float* bias = biased ? Up(RandomFloats(6, 2 * columns)) : nullptr;
      const auto weight = Pack(w, WeightShape::kGateUp, format);
      const LinearInput input = Input(Up(x), weight->view());
      const auto room = [&] {
        return Matrix<Bf16>{Up(std::vector<Bf16>(kRows * stride, ToBf16(7))), kRows, columns,
                            stride};
      };
      const Matrix<Bf16> ours = room(), theirs = room();
      ASSERT_TRUE(products_->Has(input, weight->view(), bias, nullptr));
      LaunchLinearSwiGlu(runtime_->launches(), input, weight->view(), bias, ours);
      products_->LinearSwiGlu(input, weight->view(), bias, theirs);
      const auto want = Down(ours.data, kRows * stride), got = Down(theirs.data, kRows * stride);
      for (int64_t i = 0; i < kRows * stride; ++i) {
        const bool exact = format == WeightFormat::kInt8 || i % stride >= columns;
        const float near = ToFloat(want[i]);
        ASSERT_NEAR(ToFloat(got[i]), near, exact ? 0 : 0x1p-7 * std::abs(near) + 1e-4)
            << "row " << i / stride << " column " << i % stride;
      }
    }
  }
}

TEST_F(CudaLargeProducts, LeavesToOursWhatIsSmallInt4OrNotAligned) {
  const auto x = RandomBf16(7, kRows, kInputs), w = RandomBf16(8, 16, kInputs);
  const Matrix<Bf16> device = Up(x);
  const Matrix<Bf16> odd_rows = {device.data + 1, kRows - 1, kInputs, kInputs};
  for (const WeightFormat format : kFormats) {
    const auto weight = Pack(w, WeightShape::kPlain, format);
    EXPECT_TRUE(Has(device, weight->view()));
    EXPECT_FALSE(Has(device.Rows(0, kRows - 2), weight->view()));
    // Quantised rows are our own and lie as they should.
    EXPECT_EQ(Has(odd_rows, weight->view()), format == WeightFormat::kInt8);
  }
  EXPECT_FALSE(Has(device, Pack(w, WeightShape::kPlain, WeightFormat::kInt4)->view()));

  // Only the library itself minds where results begin.
  const auto bf16 = Pack(w, WeightShape::kPlain, WeightFormat::kBf16);
  const LinearInput input = Input(device, bf16->view());
  const auto* bias = Up(RandomFloats(9, 16));
  const Matrix<float> odd_results = {Up(std::vector<float>(kRows * 17)), kRows, 16, 17};
  EXPECT_FALSE(products_->Has(input, bf16->view(), nullptr, &odd_results));
  EXPECT_TRUE(products_->Has(input, bf16->view(), bias, &odd_results));
}

TEST_F(CudaLargeProducts, LeavesToOursRowsOfWeightsThatDoNotFit) {
  // No multiple of 8 inputs, and more than can be copied at a time.
  for (const int64_t inputs : {int64_t{44}, 32 * kInputs + 64}) {
    const Matrix<Bf16> x = Up(RandomBf16(10, kRows, inputs, 1, 4));
    for (const WeightFormat format : {WeightFormat::kBf16, WeightFormat::kFp8}) {
      EXPECT_FALSE(Has(x, Pack(RandomBf16(11, 1, inputs), WeightShape::kPlain, format)->view()));
    }
  }
  const Matrix<Bf16> x = Up(RandomBf16(12, kRows, 32 * kInputs + 64));
  const auto wide = RandomBf16(13, 1, 32 * kInputs + 64);
  EXPECT_FALSE(Has(x, Pack(wide, WeightShape::kPlain, WeightFormat::kInt8)->view()));
}

}  // namespace
}  // namespace skim::cuda
