// Products of many rows by cuBLASLt, for who chose it (BackendOptions::cuda_gemm). Weights lie in
// the order that linear.cu wants, so a part of them at a time is first copied row after row to a
// buffer: per weight two bytes read, two written and two read again, where linear.cu reads two.
#pragma once

#include <memory>

#include "absl/status/statusor.h"
#include "kernels/cuda/cublas_lt.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/runtime.h"
#include "kernels/matrix.h"

namespace skim::cuda {

class LargeProducts {
 public:
  // Up to so many linear.cu reads a weight once, which copying it first cannot beat. Nobody has
  // measured from how many on it does.
  static constexpr int64_t kMostRowsOfOurs = 64;

  struct Memory {
    size_t weights = size_t{32} << 20;   // copied at a time
    size_t products = size_t{32} << 20;  // gates and ups not yet multiplied
  };
  // Memory comes from the runtime, which must outlive it. As CublasLt::Load.
  static absl::StatusOr<std::unique_ptr<LargeProducts>> Create(Runtime* runtime, Memory memory);
  static absl::StatusOr<std::unique_ptr<LargeProducts>> Create(Runtime* runtime) {
    return Create(runtime, Memory());
  }
  ~LargeProducts();

  // Whether it has such a product: bf16, many rows, and operands that begin where cuBLASLt wants.
  bool Has(Matrix<const Bf16> x, const WeightView& weight, const void* y,
           int64_t y_row_bytes) const;

  // As Ops::Linear and Ops::LinearSwiGlu.
  void Linear(Matrix<const Bf16> x, const WeightView& weight, const float* bias, bool accumulate,
              Matrix<float> y);
  void LinearSwiGlu(Matrix<const Bf16> x, const WeightView& weight, const float* bias,
                    Matrix<Bf16> y);

 private:
  LargeProducts(Runtime* runtime, Memory memory) : runtime_(*runtime), memory_(memory) {}
  // Features that are multiplied at a time, each taking `product_bytes` of products.
  int64_t Features(const WeightView& weight, size_t product_bytes) const;

  Runtime& runtime_;
  const Memory memory_;
  std::unique_ptr<CublasLt> library_;
  Bf16* weights_ = nullptr;
  float* products_ = nullptr;
};

}  // namespace skim::cuda
