// A safetensors file beside a model that was made for that model's weights: its draft head, its
// predictors, its exit adapters. Everything that is read of one is checked against the shape that
// the model asks for; errors are INVALID_ARGUMENT and name the file and the tensor.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/checkpoint.h"
#include "engine/safetensors.h"
#include "kernels/ops.h"

namespace skim {

// y = W x + b, as it lies in the backend: tensors `NAME.weight` and `NAME.bias`.
struct LinearMap {
  std::unique_ptr<PackedWeight> weight;
  std::unique_ptr<Buffer> bias;
};

class CompanionFile {
 public:
  // The file `name` beside the model whose tensors are `checkpoint`; null if there is none. An
  // error if it is of another version or was made for other weights: then `command` makes it anew.
  // Borrows `ops`.
  static absl::StatusOr<std::unique_ptr<CompanionFile>> Open(const Checkpoint& checkpoint,
                                                             const std::string& name,
                                                             const std::string& command, Ops* ops);

  const std::map<std::string, TensorEntry>& tensors() const { return file_.tensors(); }
  absl::Status Error(const std::string& what) const;

  // The first number of a tensor's shape, where that is the file's to say: in [1, most].
  absl::StatusOr<int64_t> Rows(const std::string& name, int64_t most) const;
  // Numbers that are not finite are errors, too.
  absl::StatusOr<std::vector<float>> Floats(const std::string& name,
                                            const std::vector<int64_t>& shape) const;
  absl::StatusOr<std::vector<int64_t>> Integers(const std::string& name,
                                                const std::vector<int64_t>& shape) const;

  // In the backend. The tensor `name`, [rows, cols]:
  absl::StatusOr<std::unique_ptr<PackedWeight>> Matrix(const std::string& name, int64_t rows,
                                                       int64_t cols, WeightFormat format,
                                                       WeightShape shape = WeightShape::kPlain);
  absl::StatusOr<std::unique_ptr<Buffer>> Vector(const std::string& name, int64_t size);
  // Its weight is [outputs, inputs].
  absl::StatusOr<LinearMap> Map(const std::string& name, int64_t outputs, int64_t inputs,
                                WeightFormat format);
  // Of other values.
  absl::StatusOr<std::unique_ptr<PackedWeight>> Pack(std::span<const Bf16> values, int64_t rows,
                                                     int64_t cols, WeightFormat format,
                                                     WeightShape shape = WeightShape::kPlain);
  absl::StatusOr<std::unique_ptr<Buffer>> Upload(std::span<const float> values);
  uint64_t bytes() const { return bytes_; }  // of all that was made there so far

 private:
  CompanionFile(SafetensorsFile file, Ops* ops) : file_(std::move(file)), ops_(*ops) {}
  absl::Status Check(const std::string& name, const std::vector<int64_t>& shape) const;

  SafetensorsFile file_;
  Ops& ops_;
  uint64_t bytes_ = 0;
};

}  // namespace skim
