// Products of many rows by cuBLASLt, for who chose it (BackendOptions::cuda_gemm). Weights lie in
// the order that linear.cu wants, so a part of them at a time is first copied row after row to a
// buffer; of a bf16 weight two bytes are read, two written and two read again, where linear.cu
// reads two.
//   bf16  the library writes or adds to the result itself; with a bias, and for gates and ups, a
//         kernel follows on the sums
//   fp8   codes are copied as the bf16 numbers that they are, exactly, as linear.cu makes them in
//         registers; scales are applied to the sums
//   int8  rows are quantised as for linear.cu, and codes multiplied with codes. Sums are exact and
//         what follows is linear.cu's, so results have its bits: G1 holds
//   int4  none: scales change within a sum, every 32 inputs (docs/cuda.md)
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
    size_t weights = size_t{32} << 20;  // copied at a time
    size_t sums = size_t{32} << 20;     // that a kernel follows on
  };
  // Memory comes from the runtime, which must outlive it. As CublasLt::Load.
  static absl::StatusOr<std::unique_ptr<LargeProducts>> Create(Runtime* runtime, Memory memory);
  static absl::StatusOr<std::unique_ptr<LargeProducts>> Create(Runtime* runtime) {
    return Create(runtime, Memory());
  }
  ~LargeProducts();

  // Whether it has such a product of what linear.cu would be given: many rows, a format as above,
  // and operands that begin where cuBLASLt wants. `y` is null where no floats are put out.
  bool Has(const LinearInput& x, const WeightView& weight, const float* bias,
           const Matrix<float>* y) const;

  // As LaunchLinear and LaunchLinearSwiGlu.
  void Linear(const LinearInput& x, const WeightView& weight, const float* bias, bool accumulate,
              Matrix<float> y);
  void LinearSwiGlu(const LinearInput& x, const WeightView& weight, const float* bias,
                    Matrix<Bf16> y);

 private:
  LargeProducts(Runtime* runtime, Memory memory) : runtime_(*runtime), memory_(memory) {}
  // Packed features that are multiplied at a time; `rows` sums of each have to fit, too.
  int64_t Features(const WeightView& weight, int64_t rows) const;
  // Copies packed features and multiplies them: into sums_ with x, then calls follow(sums).
  template <typename Follow>
  void ForSums(const LinearInput& x, const WeightView& weight, int64_t features,
               const Follow& follow);
  void Unpack(const WeightView& weight, int64_t first, int64_t features);

  Runtime& runtime_;
  const Memory memory_;
  std::unique_ptr<CublasLt> library_;
  void* weights_ = nullptr;
  void* sums_ = nullptr;
};

}  // namespace skim::cuda
