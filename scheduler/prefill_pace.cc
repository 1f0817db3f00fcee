#include "scheduler/prefill_pace.h"

#include <algorithm>

namespace skim {
namespace {

constexpr int32_t kLeastRows = 4;
constexpr int32_t kFirstRows = 16;
// Aimed at below the limit: steps scatter, and it is their upper end that users feel.
constexpr double kAim = 0.85;
// A step differs from the one before by no more than this, so that one odd duration is no harm.
constexpr double kMostGrowth = 1.2, kMostShrinkage = 0.5;
constexpr double kMemory = 0.1;  // weight of the latest step without prompts

}  // namespace

PrefillPace::PrefillPace(double most_slowdown, int64_t most, int32_t layers)
    : most_slowdown_(most_slowdown),
      least_(std::min(most, int64_t{kLeastRows} * layers)),
      most_(most),
      pace_(static_cast<double>(std::min(most, int64_t{kFirstRows} * layers))) {}

int64_t PrefillPace::Budget() const {
  // Nobody has decoded alone yet: there is nothing that could be slowed down.
  if (most_slowdown_ == 0 || alone_ == 0) return most_;
  return static_cast<int64_t>(pace_);
}

void PrefillPace::Add(int64_t prefill_token_layers, Micros duration) {
  if (most_slowdown_ == 0 || duration <= 0) return;
  const auto took = static_cast<double>(duration);
  if (prefill_token_layers == 0) {
    alone_ = alone_ == 0 ? took : alone_ + kMemory * (took - alone_);
    return;
  }
  if (alone_ == 0) return;
  // Only what prompts add can be changed.
  const double allowed = (most_slowdown_ - 1) * kAim * alone_;
  const double added = std::max(took - alone_, 0.01 * alone_);
  const auto computed = static_cast<double>(prefill_token_layers);
  const double fits = computed * std::clamp(allowed / added, kMostShrinkage, kMostGrowth);
  if (added > allowed) {
    // A part that had to go whole says nothing about the smaller ones.
    pace_ = std::min(pace_, fits);
  } else if (computed >= 0.9 * pace_) {  // else there was less to compute than was allowed
    pace_ = std::min(fits, kMostGrowth * pace_);
  }
  pace_ = std::clamp(pace_, static_cast<double>(least_), static_cast<double>(most_));
}

}  // namespace skim
