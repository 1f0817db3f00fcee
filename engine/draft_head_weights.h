// A trained draft head, as EAGLE's (arXiv 2401.15077): from a token and the last hidden row of the
// position before it, it guesses the last hidden row of the token's own position, and so what
// follows. Here without attention, so that it has no K/V; docs/draft_head.md has the formulas and
// the file, tools/draft_head trains one. Immutable after Load.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "engine/checkpoint.h"
#include "engine/model_config.h"
#include "engine/token_subset.h"
#include "kernels/ops.h"

namespace skim {

inline constexpr char kDraftHeadFile[] = "skim_draft_head.safetensors";

struct DraftHeadWeights {
  int64_t inner = 0;  // width of both MLPs
  // H: hidden size. All in int8, which loses no acceptance.
  std::unique_ptr<PackedWeight> mix;           // [H, 2 H]
  std::unique_ptr<PackedWeight> gate_up;       // [2 inner, 2 H], kGateUp
  std::unique_ptr<PackedWeight> down;          // [H, inner]
  std::unique_ptr<PackedWeight> deep_gate_up;  // [2 inner, H], kGateUp
  std::unique_ptr<PackedWeight> deep_down;     // [H, inner]
  std::unique_ptr<PackedWeight> lm_rows;       // [vocabulary, H]: of the model's LM head
  std::unique_ptr<Buffer> output_norm;         // [H]
  std::unique_ptr<Buffer> ones;                // [H]: norms before matrices are part of those
  TokenSubset vocabulary;                      // what can be drafted
  uint64_t bytes = 0;                          // resident

  // The head beside the model whose tensors are `checkpoint`; null if there is none. Errors name
  // the file and the tensor: INVALID_ARGUMENT for shapes that do not fit the model, a head that
  // was trained for another one, or ids out of range or order; UNIMPLEMENTED for an LM head that
  // is stored quantised.
  static absl::StatusOr<std::unique_ptr<DraftHeadWeights>> Load(const ModelConfig& config,
                                                                const Checkpoint& checkpoint,
                                                                Ops* ops);
};

}  // namespace skim
