// Lets the serving loop sleep until there is something to do, and anybody wake it. Shared:
// a consumer may still hold a channel, and with it this, after the loop is gone.
#pragma once

#include <chrono>
#include <condition_variable>
#include <mutex>

#include "base/types.h"

namespace skim {

class Waker {
 public:
  // Any thread. A wake that comes before the wait is not lost.
  void Wake() {
    {
      std::lock_guard lock(mutex_);
      woken_ = true;
    }
    wake_.notify_one();
  }

  // Loop thread. Returns after a Wake() or after `timeout`; kNever waits for a Wake().
  void Wait(Micros timeout) {
    std::unique_lock lock(mutex_);
    const auto woken = [this] { return woken_; };
    if (timeout == kNever) {
      wake_.wait(lock, woken);
    } else {
      // Bounded, since adding a huge duration to "now" would overflow inside the library.
      constexpr Micros kLongest = Micros{3600} * 1'000'000;
      wake_.wait_for(lock, std::chrono::microseconds(timeout < kLongest ? timeout : kLongest),
                     woken);
    }
    woken_ = false;
  }

 private:
  std::mutex mutex_;
  std::condition_variable wake_;
  bool woken_ = false;
};

}  // namespace skim
