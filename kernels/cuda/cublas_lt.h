// Products by NVIDIA's cuBLASLt. The library is loaded when it is asked for: it is larger than all
// else together, and who does not ask needs none.
//
// Which algorithm multiplies a row depends on how many rows there are, and so do its last bits:
// what uses this gives up G1.
#pragma once

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

 private:
  struct Library;
  struct Plan;
  struct State;

  explicit CublasLt(std::unique_ptr<State> state);
  const Plan* PlanFor(Matrix<const Bf16> x, Matrix<float> y);

  std::unique_ptr<State> state_;
};

}  // namespace skim::cuda
