#include "scheduler/intake.h"

#include <utility>

namespace skim {

absl::Status Intake::Submit(Arrival arrival) {
  const auto tokens = static_cast<int64_t>(arrival.request.prompt.size());
  std::lock_guard lock(mutex_);
  if (!refusal_.ok()) return refusal_;
  if (waiting_requests_ >= max_requests_) {
    return absl::ResourceExhaustedError("the queue is full: too many requests wait");
  }
  if (waiting_requests_ > 0 && waiting_tokens_ + tokens > max_tokens_) {
    return absl::ResourceExhaustedError("the queue is full: too many prompt tokens wait");
  }
  ++waiting_requests_;
  waiting_tokens_ += tokens;
  in_flight_.fetch_add(1, std::memory_order_acq_rel);
  arrivals_.push_back(std::move(arrival));
  return absl::OkStatus();
}

void Intake::Refuse(absl::Status reason) {
  std::lock_guard lock(mutex_);
  if (refusal_.ok()) refusal_ = std::move(reason);
}

std::vector<Arrival> Intake::Take() {
  std::lock_guard lock(mutex_);
  return std::exchange(arrivals_, {});
}

void Intake::Left(int64_t prompt_tokens) {
  std::lock_guard lock(mutex_);
  --waiting_requests_;
  waiting_tokens_ -= prompt_tokens;
}

}  // namespace skim
