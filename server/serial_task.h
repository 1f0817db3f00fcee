// Runs one function on the text workers, never twice at a time, and at least once after
// every Wake(): the strand on which a stream's state needs no lock.
#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <utility>

#include "server/text_workers.h"

namespace skim {

class SerialTask {
 public:
  explicit SerialTask(TextWorkers* workers) : workers_(workers) {}

  // Any thread, never blocks. `run` keeps alive whatever it and this task live in.
  template <typename Run>
  void Wake(Run&& run) {
    State state = state_.load();
    for (;;) {
      if (state == State::kQueued || state == State::kWokenWhileRunning) return;
      const State next = state == State::kIdle ? State::kQueued : State::kWokenWhileRunning;
      if (state_.compare_exchange_weak(state, next)) break;
    }
    if (state == State::kIdle) Post(std::forward<Run>(run));
  }

 private:
  enum class State { kIdle, kQueued, kRunning, kWokenWhileRunning };

  void Post(std::function<void()> run) {
    workers_->PostStream([this, run = std::move(run)]() mutable {
      state_.store(State::kRunning);
      run();
      State expected = State::kRunning;
      if (state_.compare_exchange_strong(expected, State::kIdle)) return;
      // Back into the queue, not round in a loop: other streams get their turn.
      state_.store(State::kQueued);
      Post(std::move(run));
    });
  }

  TextWorkers* const workers_;
  std::atomic<State> state_{State::kIdle};
};

}  // namespace skim
