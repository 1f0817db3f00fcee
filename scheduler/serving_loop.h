// The one thread that owns scheduler and engine state: drains the intake, reaps the
// cancelled and the overdue, plans, executes, commits, pushes tokens. Submit() is the only
// way in and a TokenChannel the only way out, so nothing behind it needs a lock.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/clock.h"
#include "engine/step_executor.h"
#include "scheduler/observer.h"
#include "scheduler/prefix_events.h"
#include "scheduler/request.h"
#include "scheduler/scheduler_config.h"
#include "scheduler/token_channel.h"

namespace skim {

class ServingLoop {
 public:
  // Borrows everything; all must outlive the loop. Starts the thread. `prefixes` may be null.
  ServingLoop(const SchedulerConfig& config, StepExecutor* executor, const Clock* clock,
              ServingObserver* observer, PrefixListener* prefixes = nullptr);
  // Ends the thread; what still runs ends with UNAVAILABLE.
  ~ServingLoop();
  ServingLoop(const ServingLoop&) = delete;
  ServingLoop& operator=(const ServingLoop&) = delete;

  // Any thread. OK: the channel will receive exactly one Finish. RESOURCE_EXHAUSTED: the
  // queue is full. OUT_OF_RANGE: prompt + 1 exceeds the context, or can never fit the KV
  // pool. INVALID_ARGUMENT: no prompt, or max_tokens < 1. UNAVAILABLE: draining, or after a
  // device fault.
  absl::StatusOr<std::shared_ptr<TokenChannel>> Submit(Request request,
                                                       std::function<void()> on_ready);

  // Refuses new work; what was accepted goes on. Any thread, idempotent.
  void Drain();
  // Requests accepted and not yet finished. Any thread.
  int64_t in_flight() const;
  // False after a device fault. Any thread.
  bool healthy() const;

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace skim
