// Products by NVIDIA's cuBLASLt. The library is loaded when it is asked for: it is larger than all
// else together, and who does not ask needs none.
//
// Which algorithm multiplies a row depends on how many rows there are, and so do the last bits of
// sums in floating point: what uses those gives up G1. Sums of integers are exact.
#pragma once

#include <cstdint>
#include <memory>

#include "absl/status/statusor.h"
#include "base/bf16.h"
#include "kernels/cuda/runtime.h"
#include "kernels/matrix.h"

namespace skim::cuda {

class CublasLt {
 public:
  // Its workspace comes from the runtime, which must outlive it. FAILED_PRECONDITION if the library
  // is not there or too old, RESOURCE_EXHAUSTED if there is no memory for the workspace.
  static absl::StatusOr<std::unique_ptr<CublasLt>> Load(Runtime* runtime);
  ~CublasLt();

  // Rows of all operands begin at multiples of so many bytes.
  static constexpr int kAlign = 16;

  // y = x W^T, or y += x W^T. `weight` is [y.cols, x.cols], row after row, on the device. What goes
  // wrong is found by the runtime's next Wait().
  void Multiply(Matrix<const Bf16> x, const Bf16* weight, bool accumulate, Matrix<float> y);
  // y = x W^T, exactly as long as no sum leaves int32. x.cols and y.cols are multiples of 4.
  void Multiply(Matrix<const int8_t> x, const int8_t* weight, Matrix<int32_t> y);

 private:
  struct Library;
  struct Numbers;
  struct Shape;
  struct Plan;
  struct State;

  explicit CublasLt(std::unique_ptr<State> state);
  const Plan* PlanFor(const Shape& shape);
  template <typename In, typename Out>
  void Multiply(Matrix<const In> x, const In* weight, const Numbers& numbers, bool accumulate,
                Matrix<Out> y);

  std::unique_ptr<State> state_;
};

}  // namespace skim::cuda
