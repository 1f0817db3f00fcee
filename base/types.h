// Index types shared by every module. Plain integers with a name: they cross
// module borders inside flat arrays, so they stay trivially copyable.
#pragma once

#include <cstdint>

namespace skim {

using TokenId = int32_t;  // index into the vocabulary; negative = "no token"
using SeqId = uint64_t;   // one generated sequence (a request with n choices has n)
using PageId = int32_t;   // index of a page in the KV pool; negative = "no page"
using Micros = int64_t;   // microseconds on a monotonic clock, or a duration of them

inline constexpr TokenId kNoToken = -1;
inline constexpr PageId kNoPage = -1;
inline constexpr Micros kNever = INT64_MAX;

// In place of a token: the one that a draw yields which nobody has waited for yet. Draws count from
// 0, from the last wait on.
constexpr TokenId PendingToken(int32_t draw) { return kNoToken - 1 - draw; }
constexpr bool IsPending(TokenId token) { return token < kNoToken; }
constexpr int32_t PendingDraw(TokenId token) { return kNoToken - 1 - token; }

struct IndexRange {
  int32_t begin = 0;
  int32_t end = 0;  // exclusive
  bool operator==(const IndexRange&) const = default;
};

}  // namespace skim
