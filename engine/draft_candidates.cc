#include "engine/draft_candidates.h"

#include <algorithm>

namespace skim {

const TokenSubset& DraftCandidates::Add(const PlanSequence& sequence, int32_t position) {
  candidates_.Truncate(vocabulary_);
  const int64_t most = vocabulary_ + own_columns();
  const int32_t oldest = std::max(0, position - kOwnText);
  for (int32_t i = position - 1; i >= oldest && candidates_.size() < most; --i) {
    const TokenId token = sequence.TokenAt(i);
    if (IsPending(token)) continue;
    if (candidates_.ColumnOf(token) == kNoToken) candidates_.Append(token);
  }
  const auto& ids = candidates_.ids();
  const size_t end = own_.size() + static_cast<size_t>(own_columns());
  own_.insert(own_.end(), ids.begin() + vocabulary_, ids.end());
  own_.resize(end, kNoToken);
  return candidates_;
}

}  // namespace skim
