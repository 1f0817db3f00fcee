#include "scheduler/token_channel.h"

#include <iterator>
#include <utility>

#include "base/check.h"

namespace skim {

TokenChannel::TokenChannel(size_t capacity_tokens, std::function<void()> on_ready,
                           std::function<void()> wake_producer)
    : capacity_tokens_(capacity_tokens),
      on_ready_(std::move(on_ready)),
      wake_producer_(std::move(wake_producer)) {}

TokenChannel::Drained TokenChannel::Drain() {
  Drained out;
  bool wake = false;
  {
    std::lock_guard lock(mutex_);
    out = std::exchange(pending_, {});
    notified_ = false;
    wake = std::exchange(producer_waits_, false);
  }
  if (wake && wake_producer_) wake_producer_();
  return out;
}

void TokenChannel::Cancel() {
  const bool first = !cancelled_.exchange(true, std::memory_order_relaxed);
  if (first && wake_producer_) wake_producer_();
}

bool TokenChannel::HasRoom(size_t tokens) {
  std::lock_guard lock(mutex_);
  const size_t held = pending_.tokens.size();
  const bool room = held == 0 || held + tokens <= capacity_tokens_;
  producer_waits_ = !room;
  return room;
}

void TokenChannel::PushPromptLogprobs(std::vector<SampledToken> logprobs) {
  std::lock_guard lock(mutex_);
  std::vector<SampledToken>& held = pending_.prompt_logprobs;
  held.insert(held.end(), std::make_move_iterator(logprobs.begin()),
              std::make_move_iterator(logprobs.end()));
}

void TokenChannel::Push(SampledToken token) {
  std::unique_lock lock(mutex_);
  pending_.tokens.push_back(std::move(token));
  Notify(std::move(lock));
}

void TokenChannel::Close(Finish finish) {
  std::unique_lock lock(mutex_);
  SKIM_CHECK(!closed_);
  closed_ = true;
  pending_.finish = std::move(finish);
  Notify(std::move(lock));
}

// The callback runs without the lock, so that it may hand the drain to another thread.
void TokenChannel::Notify(std::unique_lock<std::mutex> lock) {
  if (notified_) return;
  notified_ = true;
  lock.unlock();
  if (on_ready_) on_ready_();
}

}  // namespace skim
