// All tensors of a model directory: model.safetensors, or the shards that
// model.safetensors.index.json names.
#pragma once

#include <map>
#include <span>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/safetensors.h"
#include "kernels/weight.h"

namespace skim {

// A matrix that is stored quantised: codes[r][c] * scales[r].
struct StoredCodes {
  std::vector<uint8_t> codes;  // row-major
  std::vector<float> scales;   // one a row, positive and finite
};

class Checkpoint {
 public:
  // Opens every file and reads the headers. Shards must lie in `directory` itself.
  static absl::StatusOr<Checkpoint> Open(const std::string& directory);

  // NOT_FOUND names the tensor, INVALID_ARGUMENT a shape other than `shape`.
  absl::StatusOr<std::vector<Bf16>> Bf16Tensor(const std::string& name,
                                               const std::vector<int64_t>& shape) const;
  absl::StatusOr<std::vector<float>> FloatTensor(const std::string& name,
                                                 const std::vector<int64_t>& shape) const;
  // The matrix `name` as codes of `format` (kFp8 or kInt8), and its scales, which are the
  // tensor `name`_scale of shape [rows, 1]. INVALID_ARGUMENT too for codes of another type, NaN
  // codes, and scales that are not positive and finite.
  absl::StatusOr<StoredCodes> Codes(const std::string& name, const std::vector<int64_t>& shape,
                                    WeightFormat format) const;
  bool HasCodes(const std::string& name) const;  // stored as I8 or F8_E4M3
  // Bytes of a tensor as they lie in its file, from `offset` on; that many it has.
  absl::Status ReadStored(const std::string& name, int64_t offset, std::span<char> out) const;
  std::vector<std::string> Names() const;                            // of all tensors, ascending
  const std::vector<int64_t>& Shape(const std::string& name) const;  // of one of those
  const std::string& directory() const { return directory_; }
  int64_t StoredBytes(const std::string& name) const;  // 0 for no tensor
  int64_t total_bytes() const;                         // of all tensors, as stored

 private:
  const SafetensorsFile& FileOf(const std::string& name) const { return files_[file_of_.at(name)]; }
  absl::StatusOr<const SafetensorsFile*> Find(const std::string& name,
                                              const std::vector<int64_t>& shape) const;

  std::string directory_;
  std::vector<SafetensorsFile> files_;
  std::map<std::string, size_t> file_of_;  // tensor -> index into files_
};

}  // namespace skim
