// Weights as linear.cu reads them: WeightView in launch.h says how they lie. Quantised by the same
// code as for the CPU (kernels/weight_codes.h), so both backends compute with the same weights.
#pragma once

#include <memory>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/runtime.h"
#include "kernels/ops.h"
#include "kernels/weight.h"

namespace skim::cuda {

class CudaPackedWeight final : public PackedWeight {
 public:
  // Copies `weight`, quantised to `format`, to the device and waits for that. INVALID_ARGUMENT
  // for empty shapes, for kGateUp with an odd number of rows, for too many inputs for an int32
  // sum, and for weights that are not finite where the format cannot hold them. The runtime must
  // outlive the result.
  static absl::StatusOr<std::unique_ptr<CudaPackedWeight>> Pack(Runtime* runtime,
                                                                Matrix<const Bf16> weight,
                                                                WeightFormat format,
                                                                WeightShape shape);
  // The same for codes that exist already.
  static absl::StatusOr<std::unique_ptr<CudaPackedWeight>> Pack(Runtime* runtime,
                                                                const QuantizedMatrix& weight,
                                                                WeightShape shape);
  ~CudaPackedWeight() override { runtime_.Free(memory_); }

  size_t bytes() const override { return bytes_; }
  const WeightView& view() const { return view_; }

 private:
  CudaPackedWeight(Runtime* runtime, const WeightView& view, size_t bytes, void* memory)
      : PackedWeight(view.features, view.inputs, view.format),
        runtime_(*runtime),
        view_(view),
        bytes_(bytes),
        memory_(memory) {}

  class Builder;

  Runtime& runtime_;
  const WeightView view_;
  const size_t bytes_;
  void* const memory_;
};

}  // namespace skim::cuda
