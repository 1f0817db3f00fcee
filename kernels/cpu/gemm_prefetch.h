// Fetches the weights that are read next while a tile is computed. For instruction-set units:
// everything here has internal linkage (see kernels/CMakeLists.txt).
#pragma once

#include "kernels/cpu/gemm_kernels.h"

namespace skim {
namespace {

class WeightPrefetch {
 public:
  // A tile function that walks its lines several times spreads the fetches over all walks.
  explicit WeightPrefetch(const GemmTile& t, int walks = 1)
      : next_(t.prefetch), end_(t.prefetch_end), pace_((t.prefetch_pace + walks - 1) / walks) {}

  // To be called for each line of a walk, or once for several.
  [[gnu::always_inline]] void Lines(int lines = 1) {
    if (pace_ == 4 * kLine && lines == 1 && next_ + 4 * kLine <= end_) {  // one tile of rows
      Fetch(next_);
      Fetch(next_ + kLine);
      Fetch(next_ + 2 * kLine);
      Fetch(next_ + 3 * kLine);
      next_ += 4 * kLine;
      return;
    }
    owed_ += lines * pace_;
    for (; owed_ >= kLine && next_ < end_; owed_ -= kLine, next_ += kLine) Fetch(next_);
  }

 private:
  static constexpr int kLine = 64;
  [[gnu::always_inline]] static void Fetch(const char* line) { __builtin_prefetch(line, 0, 3); }

  const char* next_;
  const char* end_;
  int pace_;
  int owed_ = 0;  // bytes
};

}  // namespace
}  // namespace skim
