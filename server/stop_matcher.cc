#include "server/stop_matcher.h"

#include <algorithm>
#include <utility>

namespace skim {

StopMatcher::StopMatcher(std::vector<std::string> stops, bool include)
    : stops_(std::move(stops)), include_(include) {}

std::string StopMatcher::Push(std::string_view text) {
  pending_.append(text);
  size_t best_begin = 0;
  size_t best_end = std::string::npos;
  for (const std::string& stop : stops_) {
    const size_t begin = pending_.find(stop);
    if (begin == std::string::npos) continue;
    const size_t end = begin + stop.size();
    if (end < best_end || (end == best_end && begin < best_begin)) {
      best_begin = begin;
      best_end = end;
      matched_ = stop;
    }
  }
  const size_t certain =
      matched_.has_value() ? (include_ ? best_end : best_begin) : pending_.size() - HeldBackBytes();
  std::string out = pending_.substr(0, certain);
  pending_.erase(0, matched_.has_value() ? std::string::npos : certain);
  return out;
}

std::string StopMatcher::PassThrough(std::string_view text) { return Flush().append(text); }

std::string StopMatcher::Flush() { return std::exchange(pending_, std::string()); }

// The longest end of pending_ that begins some stop string. A later match cannot start
// before it: what lies between would itself be such an end, and longer.
size_t StopMatcher::HeldBackBytes() const {
  size_t longest = 0;
  for (const std::string& stop : stops_) {
    size_t length = std::min(stop.size() - 1, pending_.size());
    for (; length > longest; --length) {
      if (pending_.compare(pending_.size() - length, length, stop, 0, length) == 0) break;
    }
    longest = std::max(longest, length);
  }
  return longest;
}

}  // namespace skim
