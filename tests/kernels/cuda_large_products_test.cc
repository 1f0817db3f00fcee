// Products of many rows by cuBLASLt, whose stand-in judges what it is asked for.
#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "kernels/cuda/large_products.h"
#include "kernels/cuda/packed_weight.h"
#include "tests/kernels/random_matrix.h"

namespace skim::cuda {
namespace {

constexpr int64_t kRows = LargeProducts::kMostRowsOfOurs + 2, kInputs = 48;
// Room for 16 features at a time.
constexpr LargeProducts::Memory kPass = {.weights = 16 * kInputs * sizeof(Bf16) + 100,
                                         .products = 16 * kRows * sizeof(float) + 100};

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
                                         WeightFormat format = WeightFormat::kBf16) {
    return *CudaPackedWeight::Pack(runtime_.get(), w.view(), format, shape);
  }

  std::unique_ptr<Runtime> runtime_;
  std::unique_ptr<LargeProducts> products_;
  std::vector<void*> memory_;
};

double Dot(const TestMatrix<Bf16>& x, int64_t r, const TestMatrix<Bf16>& w, int64_t n) {
  double sum = 0;
  for (int64_t k = 0; k < x.cols(); ++k) {
    sum += double{ToFloat(x.at(r, k))} * double{ToFloat(w.at(n, k))};
  }
  return sum;
}

TEST_F(CudaLargeProducts, LinearIsTheProductWhateverPartOfTheWeightsIsCopiedAtATime) {
  for (const int64_t features : {16, 37}) {  // one part; two and a piece that is no whole tile
    const int64_t stride = (features + 7) / 4 * 4;
    // The second row begins on 16 bytes and no more.
    const auto x = RandomBf16(1, 1 + kRows, kInputs, 1, 8), w = RandomBf16(2, features, kInputs);
    const auto bias = RandomFloats(3, features);
    const auto weight = Pack(w, WeightShape::kPlain);
    const Matrix<Bf16> device_x = Up(x).Rows(1, kRows);
    const Matrix<float> y = {Up(std::vector<float>(kRows * stride, 7)), kRows, features, stride};
    ASSERT_TRUE(products_->Has(device_x, weight->view(), y.data, stride * sizeof(float)));
    products_->Linear(device_x, weight->view(), Up(bias), false, y);
    const auto once = Down(y.data, kRows * stride);
    products_->Linear(device_x, weight->view(), nullptr, true, y);
    const auto twice = Down(y.data, kRows * stride);
    products_->Linear(device_x, weight->view(), Up(bias), true, y);
    const auto thrice = Down(y.data, kRows * stride);
    for (int64_t r = 0; r < kRows; ++r) {
      for (int64_t n = 0; n < stride; ++n) {
        const int64_t at = r * stride + n;
        if (n >= features) {
          ASSERT_EQ(thrice[at], 7);
          continue;
        }
        const double product = Dot(x, 1 + r, w, n);
        ASSERT_NEAR(once[at], product + bias[n], 1e-4) << "row " << r << " feature " << n;
        ASSERT_NEAR(twice[at], 2 * product + bias[n], 1e-4);
        ASSERT_NEAR(thrice[at], 3 * product + 2 * bias[n], 1e-4);
      }
    }
  }
}

TEST_F(CudaLargeProducts, SwiGluFindsGateAndUpOfEveryColumn) {
  for (const bool biased : {false, true}) {
    const int64_t columns = 21;
    const auto x = RandomBf16(4, kRows, kInputs), w = RandomBf16(5, 2 * columns, kInputs, 0.3f);
    std::vector<float> bias(2 * columns, 0);
    if (biased) bias = RandomFloats(6, 2 * columns);
    const auto weight = Pack(w, WeightShape::kGateUp);
    const Matrix<Bf16> device_x = Up(x);
    const Matrix<Bf16> y = {Up(std::vector<Bf16>(kRows * columns)), kRows, columns, columns};
    ASSERT_TRUE(products_->Has(device_x, weight->view(), nullptr, 0));
    products_->LinearSwiGlu(device_x, weight->view(), biased ? Up(bias) : nullptr, y);
    const auto got = Down(y.data, kRows * columns);
    for (int64_t r = 0; r < kRows; ++r) {
      for (int64_t c = 0; c < columns; ++c) {
        const double gate = Dot(x, r, w, c) + bias[c];
        const double up = Dot(x, r, w, columns + c) + bias[columns + c];
        const double want = gate / (1 + std::exp(-gate)) * up;
        ASSERT_NEAR(ToFloat(got[r * columns + c]), want, 0x1p-8 * std::abs(want) + 1e-4)
            << "row " << r << " column " << c;
      }
    }
  }
}

TEST_F(CudaLargeProducts, LeavesToOursWhatIsSmallQuantisedOrNotAligned) {
  const auto x = RandomBf16(7, kRows, kInputs), w = RandomBf16(8, 16, kInputs);
  const Matrix<Bf16> device = Up(x);
  const auto weight = Pack(w, WeightShape::kPlain);
  EXPECT_TRUE(products_->Has(device, weight->view(), nullptr, 0));
  EXPECT_FALSE(products_->Has(device.Rows(0, kRows - 2), weight->view(), nullptr, 0));
  EXPECT_FALSE(
      products_->Has(device, Pack(w, WeightShape::kPlain, WeightFormat::kFp8)->view(), nullptr, 0));
  EXPECT_FALSE(
      products_->Has({device.data + 1, kRows, kInputs, kInputs}, weight->view(), nullptr, 0));
  EXPECT_FALSE(products_->Has(device, weight->view(), nullptr, 17 * sizeof(float)));
  const auto odd = Pack(RandomBf16(9, 16, 44), WeightShape::kPlain);
  EXPECT_FALSE(products_->Has({device.data, kRows, 44, kInputs}, odd->view(), nullptr, 0));
  // A row of it is more than can be copied at a time.
  const auto wide = Pack(RandomBf16(10, 1, 16 * kInputs + 64), WeightShape::kPlain);
  EXPECT_FALSE(
      products_->Has({device.data, kRows, 16 * kInputs + 64, 1024}, wide->view(), nullptr, 0));
}

}  // namespace
}  // namespace skim::cuda
