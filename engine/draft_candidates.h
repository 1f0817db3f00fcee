// What the rows of a draft pass can draw: the draft head's vocabulary, and of each row's own text
// the tokens outside it. Names and rare words come again.
#pragma once

#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include "engine/step_plan.h"
#include "engine/token_subset.h"

namespace skim {

class DraftCandidates {
 public:
  static constexpr int32_t kMostOwn = 128;   // of a row
  static constexpr int32_t kOwnText = 4096;  // newest tokens of its text that are looked at

  // Rows have own tokens only if `with_own`.
  DraftCandidates(TokenSubset vocabulary, bool with_own)
      : candidates_(std::move(vocabulary)), vocabulary_(candidates_.size()), with_own_(with_own) {}

  int32_t own_columns() const { return with_own_ ? kMostOwn : 0; }

  void Clear() { own_.clear(); }
  // One more row, which draws the token at `position` of the sequence. Returns its columns, valid
  // until the next call: the vocabulary, then its distinct own tokens before `position`, known or
  // drafted, the newest first. Pending ones are left out; drafts of this head are among the others
  // anyway.
  const TokenSubset& Add(const PlanSequence& sequence, int32_t position);

  // [rows, own_columns]: of each row the tokens behind the vocabulary's, kNoToken behind the last.
  std::span<const TokenId> own() const { return own_; }

 private:
  TokenSubset candidates_;  // of the last row
  const int64_t vocabulary_;
  const bool with_own_;
  std::vector<TokenId> own_;
};

}  // namespace skim
