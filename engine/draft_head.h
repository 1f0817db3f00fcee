// Runs a draft head for rows of a step, and keeps the hidden rows that it goes on from.
//
// A sequence that may be drafted for has a place (PlanSequence::feature_place) of kFeatureRows
// rows. A step that draws from its rows leaves their last hidden rows there, before the final norm;
// a draft pass goes on from one of them and puts its own guess in its stead.
#pragma once

#include <cstdint>
#include <memory>
#include <span>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/draft_head_weights.h"
#include "engine/model_config.h"
#include "engine/step_plan.h"
#include "engine/weights.h"
#include "kernels/ops.h"

namespace skim {

class DraftHead {
 public:
  // Rows at one time.
  static constexpr int32_t kMostRows = 64;

  // Borrows all, and `weights` with its draft head. Places are zero at first.
  static absl::StatusOr<std::unique_ptr<DraftHead>> Create(const ModelConfig& config,
                                                           const Weights& weights, Ops* ops,
                                                           int32_t places);

  const TokenSubset& vocabulary() const { return weights_.vocabulary; }

  // Row index[i] of `hidden` is kept as row kept_at[i] of all places, up to kMostRows. Both are
  // host memory; returns when they have been read.
  absl::Status Keep(Matrix<const float> hidden, std::span<const int32_t> index,
                    std::span<const int32_t> kept_at);

  // Of up to kMostRows rows, each of a token and a kept row, which it replaces by its own: logits
  // [rows, vocabulary], valid until the next call.
  Matrix<const float> Run(std::span<const TokenId> tokens, std::span<const int32_t> kept_at);

 private:
  DraftHead(const ModelConfig& config, const Weights& weights, Ops* ops, int32_t places)
      : config_(config),
        table_(*weights.embedding_table),
        weights_(*weights.draft_head),
        ops_(*ops),
        places_(places) {}
  absl::Status Allocate();

  const ModelConfig& config_;
  const PackedWeight& table_;
  const DraftHeadWeights& weights_;
  Ops& ops_;
  const int32_t places_;

  std::unique_ptr<Buffer> kept_;            // [places * kFeatureRows, hidden]
  std::unique_ptr<Buffer> index_;           // [2, kMostRows]
  std::unique_ptr<Buffer> evens_, odds_;    // [kMostRows]: 0 2 4 .., 1 3 5 ..
  std::unique_ptr<Buffer> pairs_, normed_;  // [2 rows, hidden]: of each row the token's, the kept
  std::unique_ptr<Buffer> x_, inner_;       // [rows, hidden], [rows, inner]
  std::unique_ptr<Buffer> logits_;          // [rows, vocabulary]
};

}  // namespace skim
