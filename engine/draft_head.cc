#include "engine/draft_head.h"

#include <vector>

#include "base/check.h"
#include "base/status_macros.h"

namespace skim {

absl::StatusOr<std::unique_ptr<DraftHead>> DraftHead::Create(const ModelConfig& config,
                                                             const Weights& weights, Ops* ops,
                                                             int32_t places, const TokenId* drawn) {
  std::unique_ptr<DraftHead> head(new DraftHead(config, weights, ops, places, drawn));
  SKIM_RETURN_IF_ERROR(head->Allocate());
  return head;
}

// A tied one is the embedding, which is always there.
const PackedWeight* DraftHead::LmHeadInBf16(const ModelConfig& config, const Weights& weights) {
  if (config.tied_embeddings) return weights.embedding_table;
  for (const WeightFormat format : weights.formats) {
    const PackedWeight& head = weights.head.In(format);
    if (head.format() == WeightFormat::kBf16) return &head;
  }
  return nullptr;
}

absl::Status DraftHead::Allocate() {
  const auto hidden = static_cast<size_t>(config_.hidden_size);
  const size_t row_bytes = hidden * sizeof(float);
  SKIM_ASSIGN_OR_RETURN(kept_,
                        ops_.Allocate(static_cast<size_t>(places_) * kFeatureRows * row_bytes));
  SKIM_ASSIGN_OR_RETURN(index_, ops_.Allocate(2 * kMostRows * sizeof(int32_t)));
  SKIM_ASSIGN_OR_RETURN(evens_, ops_.Allocate(kMostRows * sizeof(int32_t)));
  SKIM_ASSIGN_OR_RETURN(odds_, ops_.Allocate(kMostRows * sizeof(int32_t)));
  SKIM_ASSIGN_OR_RETURN(pairs_, ops_.Allocate(2 * kMostRows * row_bytes));
  SKIM_ASSIGN_OR_RETURN(normed_, ops_.Allocate(2 * kMostRows * hidden * sizeof(Bf16)));
  SKIM_ASSIGN_OR_RETURN(x_, ops_.Allocate(kMostRows * row_bytes));
  SKIM_ASSIGN_OR_RETURN(
      inner_, ops_.Allocate(kMostRows * static_cast<size_t>(weights_.inner) * sizeof(Bf16)));
  const auto own = static_cast<size_t>(candidates_.own_columns());
  const auto columns = static_cast<size_t>(weights_.vocabulary.size()) + own;
  const std::vector<TokenId>& vocabulary = weights_.vocabulary.ids();
  SKIM_ASSIGN_OR_RETURN(vocabulary_, ops_.Allocate(vocabulary.size() * sizeof(TokenId)));
  SKIM_ASSIGN_OR_RETURN(own_index_, ops_.Allocate(kMostRows * own * sizeof(TokenId)));
  SKIM_ASSIGN_OR_RETURN(logits_, ops_.Allocate(kMostRows * columns * sizeof(float)));
  std::vector<int32_t> evens, odds;
  for (int32_t i = 0; i < kMostRows; ++i) {
    evens.push_back(2 * i);
    odds.push_back(2 * i + 1);
  }
  ops_.Upload(evens_->data(), evens.data(), evens.size() * sizeof(int32_t));
  ops_.Upload(odds_->data(), odds.data(), odds.size() * sizeof(int32_t));
  ops_.Upload(vocabulary_->data(), vocabulary.data(), vocabulary.size() * sizeof(TokenId));
  return ops_.Wait();
}

void DraftHead::Keep(Matrix<const float> hidden, std::span<const int32_t> index,
                     std::span<const int32_t> kept_at) {
  const auto rows = static_cast<int64_t>(index.size());
  SKIM_CHECK(rows <= kMostRows && index.size() == kept_at.size());
  const int64_t width = config_.hidden_size;
  const Matrix<float> x{x_->As<float>(), rows, width, width};
  const Matrix<float> kept{kept_->As<float>(), int64_t{places_} * kFeatureRows, width, width};
  ops_.Upload(index_->data(), index.data(), index.size_bytes());
  ops_.Upload(index_->As<int32_t>() + kMostRows, kept_at.data(), kept_at.size_bytes());
  ops_.GatherRows(hidden, index_->As<int32_t>(), x);
  ops_.ScatterRows(x, index_->As<int32_t>() + kMostRows, kept);
}

Matrix<const float> DraftHead::Run(std::span<const TokenId> tokens,
                                   std::span<const int32_t> kept_at, std::span<const TokenId> own) {
  const auto rows = static_cast<int64_t>(tokens.size());
  const int64_t own_columns = candidates_.own_columns();
  SKIM_CHECK(rows <= kMostRows && tokens.size() == kept_at.size());
  SKIM_CHECK(static_cast<int64_t>(own.size()) == rows * own_columns);
  const int64_t width = config_.hidden_size, vocabulary = weights_.vocabulary.size();
  const int64_t columns = vocabulary + own_columns;
  const float eps = config_.norm_eps;
  const Matrix<float> x{x_->As<float>(), rows, width, width};
  const Matrix<float> pairs{pairs_->As<float>(), 2 * rows, width, width};
  const Matrix<Bf16> normed_pairs{normed_->As<Bf16>(), 2 * rows, width, width};
  const Matrix<Bf16> both{normed_->As<Bf16>(), rows, 2 * width, 2 * width};  // the same memory
  const Matrix<Bf16> normed{normed_->As<Bf16>(), rows, width, width};
  const Matrix<Bf16> inner{inner_->As<Bf16>(), rows, weights_.inner, weights_.inner};
  const Matrix<float> kept{kept_->As<float>(), int64_t{places_} * kFeatureRows, width, width};
  const Matrix<float> logits{logits_->As<float>(), rows, columns, columns};
  const Matrix<float> common{logits.data, rows, vocabulary, columns};
  const float* ones = weights_.ones->As<float>();
  auto* const token_index = index_->As<TokenId>();
  const int32_t* const kept_index = index_->As<int32_t>() + kMostRows;

  ops_.Upload(token_index, tokens.data(), tokens.size_bytes());
  ops_.Upload(index_->As<int32_t>() + kMostRows, kept_at.data(), kept_at.size_bytes());
  ops_.Embed(table_, token_index, drawn_, x);
  ops_.ScatterRows(x, evens_->As<int32_t>(), pairs);
  ops_.GatherRows(kept, kept_index, x);
  ops_.ScatterRows(x, odds_->As<int32_t>(), pairs);
  ops_.RmsNorm(pairs, ones, eps, normed_pairs);
  ops_.Linear(both, *weights_.mix, nullptr, /*accumulate=*/false, x);
  ops_.LinearSwiGlu(both, *weights_.gate_up, nullptr, inner);
  ops_.Linear(inner, *weights_.down, nullptr, /*accumulate=*/true, x);
  ops_.RmsNorm(x, ones, eps, normed);
  ops_.LinearSwiGlu(normed, *weights_.deep_gate_up, nullptr, inner);
  ops_.Linear(inner, *weights_.deep_down, nullptr, /*accumulate=*/true, x);
  ops_.ScatterRows(x, kept_index, kept);
  ops_.RmsNorm(x, weights_.output_norm->As<float>(), eps, normed);
  ops_.Linear(normed, *weights_.lm_rows, nullptr, /*accumulate=*/false, common);
  if (own_rows_ != nullptr) {
    ops_.Upload(own_index_->data(), own.data(), own.size_bytes());
    ops_.LinearAt(normed, *own_rows_, own_index_->As<int32_t>(), kOwnBias,
                  {logits.data + vocabulary, rows, own_columns, columns});
  }
  return logits;
}

}  // namespace skim
