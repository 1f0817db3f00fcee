// Some of a vocabulary's tokens as columns of their own.
#pragma once

#include <cstdint>
#include <utility>
#include <vector>

#include "base/types.h"

namespace skim {

class TokenSubset {
 public:
  TokenSubset() = default;
  // `ids`: ascending, in [0, vocab_size).
  TokenSubset(std::vector<TokenId> ids, int32_t vocab_size)
      : ids_(std::move(ids)), columns_(static_cast<size_t>(vocab_size), kNoToken) {
    for (size_t i = 0; i < ids_.size(); ++i) columns_[ids_[i]] = static_cast<TokenId>(i);
  }

  // One more column behind the others. `token`: in [0, vocab_size), without a column.
  void Append(TokenId token) {
    columns_[token] = static_cast<TokenId>(ids_.size());
    ids_.push_back(token);
  }
  // Takes back those that were appended: the first `size` columns stay.
  void Truncate(int64_t size) {
    for (size_t i = static_cast<size_t>(size); i < ids_.size(); ++i) columns_[ids_[i]] = kNoToken;
    ids_.resize(static_cast<size_t>(size));
  }

  const std::vector<TokenId>& ids() const { return ids_; }
  int64_t size() const { return static_cast<int64_t>(ids_.size()); }
  TokenId ColumnOf(TokenId token) const { return columns_[token]; }  // kNoToken: none

 private:
  std::vector<TokenId> ids_;
  std::vector<TokenId> columns_;  // by token
};

}  // namespace skim
