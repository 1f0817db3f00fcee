// The bounded pipe from the serving loop to the one consumer of a request's tokens, and
// the cancel flag in the other direction.
//
// Threads: the loop produces; one consumer thread at a time drains. Shared ownership
// (loop and consumer end at different times) is the reason for shared_ptr here.
#pragma once

#include <atomic>
#include <cstddef>
#include <functional>
#include <mutex>
#include <optional>
#include <vector>

#include "kernels/sampling.h"
#include "scheduler/request.h"

namespace skim {

class TokenChannel {
 public:
  // `on_ready` runs on the loop thread, after every Push or Close that finds the channel
  // without an undelivered notification. It must not block and must not call back in. A
  // consumer that drains early may have the Finish while the call is still on its way: what
  // `on_ready` captures must own what it needs.
  // `wake_producer` runs on the consumer's thread after a Cancel, and after a Drain that makes
  // room the producer has asked for in vain: a sleeping loop would not notice either.
  TokenChannel(size_t capacity_tokens, std::function<void()> on_ready,
               std::function<void()> wake_producer = {});

  // --- consumer ---
  struct Drained {
    std::vector<SampledToken> prompt_logprobs;  // with the first tokens, if asked for
    std::vector<SampledToken> tokens;
    std::optional<Finish> finish;  // set exactly once, after the last token
  };
  // Takes everything there is and re-arms the notification.
  Drained Drain();
  // The loop ends the request within one step. Any thread; idempotent.
  void Cancel();

  // --- producer (loop thread) ---
  bool cancelled() const { return cancelled_.load(std::memory_order_relaxed); }
  // False while the consumer has not drained: the sequence is then not scheduled. An empty
  // channel has room for any number. Push itself never refuses.
  bool HasRoom(size_t tokens);
  void PushPromptLogprobs(std::vector<SampledToken> logprobs);
  void Push(SampledToken token);
  void Close(Finish finish);  // exactly once

 private:
  void Notify(std::unique_lock<std::mutex> lock);

  const size_t capacity_tokens_;
  const std::function<void()> on_ready_;
  const std::function<void()> wake_producer_;
  std::atomic<bool> cancelled_{false};
  std::mutex mutex_;
  Drained pending_;
  bool notified_ = false;        // a notification is under way and not yet drained
  bool producer_waits_ = false;  // the last HasRoom said no
  bool closed_ = false;
};

}  // namespace skim
