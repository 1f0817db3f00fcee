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

int64_t WholeTiles(int64_t features) {
  return (features + WeightView::kTileFeatures - 1) / WeightView::kTileFeatures *
         WeightView::kTileFeatures;
}

// The numbers of a row of weights, as it is copied and as x has them.
int64_t Inputs(const WeightView& weight) {
  return weight.format == WeightFormat::kInt8 ? weight.padded_inputs() : weight.inputs;
}
int64_t RowBytes(const WeightView& weight) {
  return Inputs(weight) * (weight.format == WeightFormat::kInt8 ? 1 : int64_t{sizeof(Bf16)});
}

template <typename T>
Matrix<const T> Rows(const LinearInput& x) {
  return {reinterpret_cast<const T*>(x.data), x.rows, x.cols, x.stride / int64_t{sizeof(T)}};
}

// Sums are results, but for what may have been there.
bool SumsAreResults(const WeightView& weight, const float* bias) {
  return weight.format == WeightFormat::kBf16 && bias == nullptr;
}

}  // namespace

absl::StatusOr<std::unique_ptr<LargeProducts>> LargeProducts::Create(Runtime* runtime,
                                                                     Memory memory) {
  std::unique_ptr<LargeProducts> products(new LargeProducts(runtime, memory));
  SKIM_ASSIGN_OR_RETURN(products->library_, CublasLt::Load(runtime));
  SKIM_ASSIGN_OR_RETURN(products->weights_, runtime->Allocate(memory.weights));
  SKIM_ASSIGN_OR_RETURN(products->sums_, runtime->Allocate(memory.sums));
  return products;
}

LargeProducts::~LargeProducts() {
  runtime_.Free(weights_);
  runtime_.Free(sums_);
}

int64_t LargeProducts::Features(const WeightView& weight, int64_t rows) const {
  size_t features = memory_.weights / static_cast<size_t>(RowBytes(weight));
  if (rows > 0) {
    features = std::min(features, memory_.sums / (static_cast<size_t>(rows) * sizeof(float)));
  }
  return static_cast<int64_t>(features) / kUnit * kUnit;
}

bool LargeProducts::Has(const LinearInput& x, const WeightView& weight, const float* bias,
                        const Matrix<float>* y) const {
  if (weight.format == WeightFormat::kInt4 || x.rows <= kMostRowsOfOurs) return false;
  if (!Aligned(x.data, x.stride) || RowBytes(weight) % CublasLt::kAlign != 0) return false;
  if (y != nullptr && SumsAreResults(weight, bias)) {
    return Aligned(y->data, y->stride * int64_t{sizeof(float)}) && Features(weight, 0) > 0;
  }
  return Features(weight, x.rows) > 0;
}

void LargeProducts::Unpack(const WeightView& weight, int64_t first, int64_t features) {
  LaunchUnpack(runtime_.launches(), weight, first, WholeTiles(features), Inputs(weight), weights_);
  runtime_.CheckLaunch("unpack");
}

template <typename Follow>
void LargeProducts::ForSums(const LinearInput& x, const WeightView& weight, int64_t features,
                            const Follow& follow) {
  const int64_t most = Features(weight, x.rows);
  for (int64_t first = 0; first < features; first += most) {
    const ProductSums sums = {sums_, first, std::min(most, features - first)};
    Unpack(weight, first, sums.features);
    if (weight.format == WeightFormat::kInt8) {
      library_->Multiply(Rows<int8_t>(x), static_cast<const int8_t*>(weights_),
                         {static_cast<int32_t*>(sums_), x.rows, sums.features, sums.features});
    } else {
      library_->Multiply(Rows<Bf16>(x), static_cast<const Bf16*>(weights_), false,
                         {static_cast<float*>(sums_), x.rows, sums.features, sums.features});
    }
    if (!runtime_.ok()) return;
    follow(sums);
  }
}

void LargeProducts::Linear(const LinearInput& x, const WeightView& weight, const float* bias,
                           bool accumulate, Matrix<float> y) {
  if (!SumsAreResults(weight, bias)) {
    return ForSums(x, weight, WholeTiles(weight.features), [&](const ProductSums& sums) {
      LaunchLinearOf(runtime_.launches(), sums, x, weight, bias, accumulate, y);
      runtime_.CheckLaunch("linear of sums");
    });
  }
  const int64_t most = Features(weight, 0);
  for (int64_t first = 0; first < weight.features; first += most) {
    const int64_t features = std::min(most, weight.features - first);
    Unpack(weight, first, features);
    library_->Multiply(Rows<Bf16>(x), static_cast<const Bf16*>(weights_), accumulate,
                       {y.data + first, y.rows, features, y.stride});
  }
}

void LargeProducts::LinearSwiGlu(const LinearInput& x, const WeightView& weight, const float* bias,
                                 Matrix<Bf16> y) {
  // Packed features: gate and up take turns, tile by tile, and the last tiles may be padding.
  ForSums(x, weight, 2 * WholeTiles(y.cols), [&](const ProductSums& sums) {
    LaunchLinearSwiGluOf(runtime_.launches(), sums, x, weight, bias, y);
    runtime_.CheckLaunch("swiglu of sums");
  });
}

}  // namespace skim::cuda
