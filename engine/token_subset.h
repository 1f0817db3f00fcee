// Some of a vocabulary's tokens, in ascending order, as columns of their own.
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

  const std::vector<TokenId>& ids() const { return ids_; }
  int64_t size() const { return static_cast<int64_t>(ids_.size()); }
  TokenId ColumnOf(TokenId token) const { return columns_[token]; }  // kNoToken: none

 private:
  std::vector<TokenId> ids_;
  std::vector<TokenId> columns_;  // by token
};

}  // namespace skim
