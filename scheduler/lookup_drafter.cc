#include "scheduler/lookup_drafter.h"

#include <algorithm>

#include "base/check.h"
#include "scheduler/ngram_hash.h"

namespace skim {

LookupDrafter::LookupDrafter(int32_t min_ngram, int32_t max_ngram)
    : min_ngram_(min_ngram),
      max_ngram_(max_ngram),
      after_(static_cast<size_t>(max_ngram - min_ngram + 1)) {
  SKIM_CHECK(min_ngram >= 1 && min_ngram <= max_ngram);
}

// The n-gram that ends the text is not entered: it would find itself.
void LookupDrafter::Index(std::span<const TokenId> tokens) {
  const auto known = static_cast<int32_t>(tokens.size());
  for (; indexed_ + 1 < known; ++indexed_) {
    const int32_t end = indexed_ + 1;
    for (int32_t n = min_ngram_; n <= std::min(max_ngram_, end); ++n) {
      after_[n - min_ngram_][HashOfNgram(tokens.subspan(end - n, n))] = end;
    }
  }
}

DraftProposal LookupDrafter::Propose(std::span<const TokenId> tokens, int32_t most) {
  Index(tokens);
  const auto known = static_cast<int32_t>(tokens.size());
  for (int32_t n = std::min(max_ngram_, known - 1); n >= min_ngram_; --n) {
    const auto ending = tokens.last(n);
    const auto found = after_[n - min_ngram_].find(HashOfNgram(ending));
    if (found == after_[n - min_ngram_].end()) continue;
    const int32_t begin = found->second;
    if (!std::ranges::equal(tokens.subspan(begin - n, n), ending)) continue;  // hashes collide
    DraftProposal proposal;
    for (int32_t i = 0; i < most; ++i) {
      const int32_t from = begin + i;
      proposal.tokens.push_back(from < known ? tokens[from] : proposal.tokens[from - known]);
    }
    return proposal;
  }
  return {};
}

}  // namespace skim
