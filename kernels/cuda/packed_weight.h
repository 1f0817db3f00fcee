// Weights as linear.cu reads them: WeightView in launch.h says how they lie.
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
  // Copies `weight` to the device and waits for that. INVALID_ARGUMENT for empty shapes and
  // for kGateUp with an odd number of rows. The runtime must outlive the result.
  static absl::StatusOr<std::unique_ptr<CudaPackedWeight>> Pack(Runtime* runtime,
                                                                Matrix<const Bf16> weight,
                                                                WeightShape shape);
  ~CudaPackedWeight() override { runtime_.Free(data_); }

  size_t bytes() const override { return bytes_; }
  WeightView view() const { return view_; }

 private:
  CudaPackedWeight(Runtime* runtime, const WeightView& view, size_t bytes, void* data)
      : PackedWeight(view.features, view.inputs, WeightFormat::kBf16),
        runtime_(*runtime),
        view_(view),
        bytes_(bytes),
        data_(data) {}

  Runtime& runtime_;
  const WeightView view_;
  const size_t bytes_;
  void* const data_;
};

}  // namespace skim::cuda
