// How loaded the daemon is now, for load balancers and gateways: passes on what the loop
// reports and keeps the latest state and the rates of the last seconds.
#pragma once

#include <array>
#include <cstdint>
#include <mutex>

#include "base/clock.h"
#include "base/types.h"
#include "engine/step_plan.h"
#include "scheduler/observer.h"
#include "scheduler/scheduler_config.h"

namespace skim {

// A sum over the last kSeconds seconds, in steps of one.
class RecentSum {
 public:
  static constexpr int kSeconds = 10;
  void Add(Micros now, double value);
  double Sum(Micros now) const;

 private:
  struct Slot {
    int64_t second = -1;
    double sum = 0;
  };
  std::array<Slot, kSeconds> slots_;
};

struct Load {
  LoopState state;
  int32_t max_running = 0;  // sequence slots
  int32_t max_waiting = 0;
  int32_t page_tokens = 0;
  int64_t kv_tokens_total = 0;  // slots of the KV pages
  int64_t kv_tokens_owned = 0;  // of those, in pages that sequences hold
  double generated_tokens_per_s = 0;
  double finished_per_s = 0;  // sequences
  double failed_per_s = 0;    // of those, by a fault of ours
  double cache_hit_ratio = 0;

  double SlotUse() const;  // [0, 1]
  double KvUse() const;    // [0, 1]
  // Of the scarcer of both; above 1 once sequences wait.
  double Utilization() const;
};

class LoadMonitor final : public ServingObserver {
 public:
  // Borrows both.
  LoadMonitor(ServingObserver* next, const Clock* clock) : next_(next), clock_(clock) {}

  // Before the loop starts.
  void SetCapacity(const SchedulerConfig& scheduler, const KvGeometry& geometry);

  // Any thread.
  Load Read() const;

  // --- serving loop ---
  void OnStep(const StepStats& stats) override;
  void OnState(const LoopState& state) override;
  void OnFirstToken(Micros time_to_first_token, PrefillMode mode) override;
  void OnTokens(int32_t tokens, Micros since_last) override;
  void OnFinish(const Finish& finish) override;

 private:
  void CountTokens(int32_t tokens);

  ServingObserver* const next_;
  const Clock* const clock_;

  mutable std::mutex mutex_;  // held for a few instructions
  Load now_;                  // all but the rates
  KvGeometry geometry_;
  RecentSum tokens_;
  RecentSum finished_;
  RecentSum failed_;
  RecentSum prefix_queries_;
  RecentSum prefix_hits_;
};

}  // namespace skim
