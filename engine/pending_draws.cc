#include "engine/pending_draws.h"

#include <iterator>

#include "base/check.h"
#include "base/status_macros.h"

namespace skim {

absl::StatusOr<std::unique_ptr<PendingDraws>> PendingDraws::Create(int32_t most, Ops* ops) {
  SKIM_ASSIGN_OR_RETURN(auto tokens, ops->Allocate(static_cast<size_t>(most) * sizeof(TokenId)));
  return std::unique_ptr<PendingDraws>(new PendingDraws(most, std::move(tokens)));
}

PendingDraws::Places PendingDraws::Add(int32_t draws) {
  SKIM_CHECK(draws >= 0 && draws <= room());
  const int32_t first = std::exchange(size_, size_ + draws);
  return {first,
          std::span(results_).subspan(static_cast<size_t>(first), static_cast<size_t>(draws)),
          tokens_->As<TokenId>() + first};
}

std::vector<SampledToken> PendingDraws::Settle() {
  const auto begin = std::make_move_iterator(results_.begin());
  return {begin, begin + std::exchange(size_, 0)};
}

}  // namespace skim
