#include "kernels/cuda/large_products.h"

#include <algorithm>
#include <cstdint>

#include "base/status_macros.h"

namespace skim::cuda {
namespace {

constexpr int64_t kUnit = 2 * WeightView::kTileFeatures;  // a tile of the gate and its one of up

bool Aligned(const void* data, int64_t row_bytes) {
  return reinterpret_cast<uintptr_t>(data) % CublasLt::kAlign == 0 &&
         row_bytes % CublasLt::kAlign == 0;
}

}  // namespace

absl::StatusOr<std::unique_ptr<LargeProducts>> LargeProducts::Create(Runtime* runtime,
                                                                     Memory memory) {
  std::unique_ptr<LargeProducts> products(new LargeProducts(runtime, memory));
  SKIM_ASSIGN_OR_RETURN(products->library_, CublasLt::Load(runtime));
  SKIM_ASSIGN_OR_RETURN(void* const weights, runtime->Allocate(memory.weights));
  products->weights_ = static_cast<Bf16*>(weights);
  SKIM_ASSIGN_OR_RETURN(void* const sums, runtime->Allocate(memory.products));
  products->products_ = static_cast<float*>(sums);
  return products;
}

LargeProducts::~LargeProducts() {
  runtime_.Free(weights_);
  runtime_.Free(products_);
}

int64_t LargeProducts::Features(const WeightView& weight, size_t product_bytes) const {
  const auto row_bytes = static_cast<size_t>(weight.inputs) * sizeof(Bf16);
  size_t features = memory_.weights / row_bytes;
  if (product_bytes > 0) features = std::min(features, memory_.products / product_bytes);
  return static_cast<int64_t>(features) / kUnit * kUnit;
}

bool LargeProducts::Has(Matrix<const Bf16> x, const WeightView& weight, const void* y,
                        int64_t y_row_bytes) const {
  const int64_t bytes = sizeof(Bf16);
  return weight.format == WeightFormat::kBf16 && x.rows > kMostRowsOfOurs &&
         Aligned(x.data, x.stride * bytes) && Aligned(weights_, weight.inputs * bytes) &&
         Aligned(y, y_row_bytes) &&
         Features(weight, static_cast<size_t>(x.rows) * sizeof(float)) > 0;
}

void LargeProducts::Linear(Matrix<const Bf16> x, const WeightView& weight, const float* bias,
                           bool accumulate, Matrix<float> y) {
  if (bias != nullptr) {
    LaunchBias(runtime_.stream(), bias, accumulate, y);
    runtime_.CheckLaunch("bias");
  }
  const int64_t most = Features(weight, 0);
  for (int64_t first = 0; first < weight.features; first += most) {
    const int64_t features = std::min(most, weight.features - first);
    LaunchUnpack(runtime_.stream(), weight, first, features, weights_);
    runtime_.CheckLaunch("unpack");
    library_->Multiply(x, weights_, accumulate || bias != nullptr,
                       {y.data + first, y.rows, features, y.stride});
  }
}

void LargeProducts::LinearSwiGlu(Matrix<const Bf16> x, const WeightView& weight, const float* bias,
                                 Matrix<Bf16> y) {
  // Packed features: gate and up take turns, tile by tile, and the last tiles may be padding.
  const int64_t all = (y.cols + WeightView::kTileFeatures - 1) / WeightView::kTileFeatures * kUnit;
  const int64_t most = Features(weight, static_cast<size_t>(x.rows) * sizeof(float));
  for (int64_t first = 0; first < all; first += most) {
    const int64_t features = std::min(most, all - first);
    LaunchUnpack(runtime_.stream(), weight, first, features, weights_);
    runtime_.CheckLaunch("unpack");
    library_->Multiply(x, weights_, false, {products_, x.rows, features, features});
    if (!runtime_.ok()) return;
    LaunchSwiGlu(runtime_.stream(), {products_, x.rows, features, features}, first / 2, bias, y);
    runtime_.CheckLaunch("swiglu");
  }
}

}  // namespace skim::cuda
