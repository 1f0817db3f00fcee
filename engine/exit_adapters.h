// Maps that bring the hidden row with which a draft leaves at an early exit closer to what the last
// layer would have made of it, before the head that all share (docs/speculation.md):
// skim_exit_adapters.safetensors beside the model, made by `./run calibrate --exit-adapters`. With
// h the residual stream behind the first E layers, the head takes
//
//   h + W(E) h / rms(h) + b(E).
//
// They lie in the file as `E.weight`, [hidden, hidden], and `E.bias`, [hidden], for exits E in
// [1, layers); its metadata tells `version` 1 and `fingerprint`, that of the model it was made for.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/checkpoint.h"
#include "engine/companion_file.h"
#include "engine/model_config.h"
#include "kernels/ops.h"

namespace skim {

inline constexpr char kExitAdapterFile[] = "skim_exit_adapters.safetensors";

// Immutable after Load.
class ExitAdapters {
 public:
  // Those beside the model whose tensors are `checkpoint`; none if there is no file.
  // INVALID_ARGUMENT, naming file and tensor, for a file that is broken, of another model, or holds
  // a tensor that is none of the above.
  static absl::StatusOr<ExitAdapters> Load(const ModelConfig& config, const Checkpoint& checkpoint,
                                           Ops* ops);

  // In int8, whatever the weight format of the rows; null if rows that leave behind so many layers
  // go to the head as they are.
  const LinearMap* At(int32_t exit_layer) const {
    const auto found = maps_.find(exit_layer);
    return found == maps_.end() ? nullptr : &found->second;
  }
  const Buffer& ones() const { return *ones_; }  // [hidden], if there is any map
  std::vector<int32_t> exits() const;            // ascending
  uint64_t bytes() const { return bytes_; }      // resident in the backend

 private:
  std::map<int32_t, LinearMap> maps_;
  std::unique_ptr<Buffer> ones_;
  uint64_t bytes_ = 0;
};

}  // namespace skim
