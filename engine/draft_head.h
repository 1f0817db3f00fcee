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
#include "engine/draft_candidates.h"
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
  // Added to the logits of a row's own tokens: the head was trained to tell apart those of its
  // vocabulary, and holds what stands in the text less likely than it is (docs/draft_head.md).
  static constexpr float kOwnBias = 2;

  // Borrows all, and `weights` with its draft head. Places are zero at first. `drawn` is what
  // pending tokens stand for, in device memory.
  static absl::StatusOr<std::unique_ptr<DraftHead>> Create(const ModelConfig& config,
                                                           const Weights& weights, Ops* ops,
                                                           int32_t places, const TokenId* drawn);

  // With own tokens where the model's LM head is resident in bf16, whose rows those need.
  DraftCandidates& candidates() { return candidates_; }

  // Spans are host memory that has to stay until the next Wait().

  // Row index[i] of `hidden` is kept as row kept_at[i] of all places, up to kMostRows.
  void Keep(Matrix<const float> hidden, std::span<const int32_t> index,
            std::span<const int32_t> kept_at);

  // Of up to kMostRows rows, each of a token and a kept row, which it replaces by its own: logits
  // [rows, vocabulary, then own_columns], valid until the next call. `own` is that of candidates
  // with as many rows, and -inf where it has no token.
  Matrix<const float> Run(std::span<const TokenId> tokens, std::span<const int32_t> kept_at,
                          std::span<const TokenId> own);
  // Of the logits of the last Run.
  ColumnTokens columns() const {
    return {vocabulary_->As<TokenId>(), weights_.vocabulary.size(), own_index_->As<TokenId>()};
  }

 private:
  DraftHead(const ModelConfig& config, const Weights& weights, Ops* ops, int32_t places,
            const TokenId* drawn)
      : config_(config),
        table_(*weights.embedding_table),
        weights_(*weights.draft_head),
        own_rows_(LmHeadInBf16(config, weights)),
        candidates_(weights_.vocabulary, own_rows_ != nullptr),
        ops_(*ops),
        places_(places),
        drawn_(drawn) {}
  static const PackedWeight* LmHeadInBf16(const ModelConfig& config, const Weights& weights);
  absl::Status Allocate();

  const ModelConfig& config_;
  const PackedWeight& table_;
  const DraftHeadWeights& weights_;
  const PackedWeight* const own_rows_;  // null: not resident
  DraftCandidates candidates_;
  Ops& ops_;
  const int32_t places_;
  const TokenId* const drawn_;

  std::unique_ptr<Buffer> kept_;            // [places * kFeatureRows, hidden]
  std::unique_ptr<Buffer> index_;           // [2, kMostRows]
  std::unique_ptr<Buffer> evens_, odds_;    // [kMostRows]: 0 2 4 .., 1 3 5 ..
  std::unique_ptr<Buffer> pairs_, normed_;  // [2 rows, hidden]: of each row the token's, the kept
  std::unique_ptr<Buffer> x_, inner_;       // [rows, hidden], [rows, inner]
  std::unique_ptr<Buffer> vocabulary_;      // [vocabulary]: its tokens
  std::unique_ptr<Buffer> own_index_;       // [rows, own_columns]
  std::unique_ptr<Buffer> logits_;          // [rows, vocabulary + own_columns]
};

}  // namespace skim
