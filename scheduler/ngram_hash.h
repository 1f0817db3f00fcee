// Of a few tokens in order, for tables in which they are looked up.
#pragma once

#include <cstdint>
#include <span>

#include "base/types.h"

namespace skim {

inline uint64_t HashOfNgram(std::span<const TokenId> ngram) {
  uint64_t hash = 0;
  for (const TokenId token : ngram) {
    hash = (hash ^ static_cast<uint32_t>(token)) * 0x9e3779b97f4a7c15u;
    hash ^= hash >> 29;
  }
  return hash;
}

}  // namespace skim
