#include "loadtest/token_gaps.h"

#include <algorithm>

namespace skim {

std::vector<TokenGap> TokenGaps(std::span<const Micros> times) {
  std::vector<TokenGap> gaps;
  for (size_t i = 0; i < times.size();) {
    const auto rest = times.subspan(i);
    const auto group = static_cast<size_t>(std::ranges::upper_bound(rest, times[i]) - rest.begin());
    if (i > 0) {
      const double ms = static_cast<double>(times[i] - times[i - 1]) * 1e-3;
      gaps.insert(gaps.end(), group, {times[i - 1], times[i], ms / static_cast<double>(group)});
    }
    i += group;
  }
  return gaps;
}

}  // namespace skim
