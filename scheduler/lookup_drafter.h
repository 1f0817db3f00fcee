// Prompt lookup: what the request's own text said the last time its end stood there. Costs no
// arithmetic of the model; pays where output repeats input (code edits, extraction, quotes).
#pragma once

#include <cstdint>
#include <span>
#include <unordered_map>
#include <vector>

#include "scheduler/drafter.h"

namespace skim {

class LookupDrafter final : public Drafter {
 public:
  // n-grams of [min_ngram, max_ngram] tokens, 1 <= min <= max.
  LookupDrafter(int32_t min_ngram, int32_t max_ngram);

  // The continuation of the latest earlier occurrence of the longest n-gram that ends the
  // text and stood before. A continuation that meets the end of the text goes on with itself:
  // text that repeats is drafted as repeating.
  DraftProposal Propose(std::span<const TokenId> tokens, int32_t most) override;

 private:
  void Index(std::span<const TokenId> tokens);

  const int32_t min_ngram_, max_ngram_;
  int32_t indexed_ = 0;  // tokens whose n-grams have been entered, all but the last
  // [n - min_ngram]: hash of an n-gram -> where what follows its latest occurrence begins.
  std::vector<std::unordered_map<uint64_t, int32_t>> after_;
};

}  // namespace skim
