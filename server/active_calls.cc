#include "server/active_calls.h"

#include <chrono>

namespace skim {

void ActiveCalls::Add(ActiveCall* call) {
  std::lock_guard lock(mutex_);
  calls_.insert(call);
}

void ActiveCalls::Remove(ActiveCall* call) {
  std::lock_guard lock(mutex_);
  calls_.erase(call);
  if (calls_.empty()) none_.notify_all();
}

size_t ActiveCalls::size() const {
  std::lock_guard lock(mutex_);
  return calls_.size();
}

void ActiveCalls::EndAll(const absl::Status& status) {
  std::lock_guard lock(mutex_);
  for (ActiveCall* call : calls_) call->End(status);
}

void ActiveCalls::Abort(std::string_view request_id) {
  std::lock_guard lock(mutex_);
  for (ActiveCall* call : calls_) call->Abort(request_id);
}

bool ActiveCalls::WaitUntilNone(Micros timeout) const {
  std::unique_lock lock(mutex_);
  return none_.wait_for(lock, std::chrono::microseconds(timeout), [&] { return calls_.empty(); });
}

}  // namespace skim
