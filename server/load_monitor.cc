#include "server/load_monitor.h"

#include <algorithm>

namespace skim {
namespace {

constexpr Micros kSecond = 1'000'000;

double Share(double part, double whole) { return whole > 0 ? part / whole : 0; }

}  // namespace

void RecentSum::Add(Micros now, double value) {
  const int64_t second = now / kSecond;
  Slot& slot = slots_[second % kSeconds];
  if (slot.second != second) slot = {second, 0};
  slot.sum += value;
}

double RecentSum::Sum(Micros now) const {
  const int64_t second = now / kSecond;
  double sum = 0;
  for (const Slot& slot : slots_) {
    if (slot.second > second - kSeconds) sum += slot.sum;
  }
  return sum;
}

double Load::SlotUse() const { return Share(state.running, max_running); }

double Load::KvUse() const { return Share(state.kv_pages_owned, state.kv_pages_total); }

double Load::Utilization() const {
  const double fuller = std::max(SlotUse(), KvUse());
  return state.waiting == 0 ? fuller : 1 + Share(state.waiting, max_waiting);
}

void LoadMonitor::SetCapacity(const SchedulerConfig& scheduler, const KvGeometry& geometry) {
  std::lock_guard lock(mutex_);
  geometry_ = geometry;
  now_.max_running = scheduler.max_running;
  now_.max_waiting = scheduler.max_waiting;
  now_.page_tokens = geometry.page_tokens;
  now_.state.kv_pages_total = geometry.total_pages;
}

Load LoadMonitor::Read() const {
  const Micros now = clock_->Now();
  std::lock_guard lock(mutex_);
  Load load = now_;
  const auto tokens = [&](int64_t pages) {
    return pages / geometry_.PagesPerBlock() * geometry_.page_tokens;
  };
  load.kv_tokens_total = tokens(load.state.kv_pages_total);
  load.kv_tokens_owned = tokens(load.state.kv_pages_owned);
  load.generated_tokens_per_s = tokens_.Sum(now) / RecentSum::kSeconds;
  load.finished_per_s = finished_.Sum(now) / RecentSum::kSeconds;
  load.failed_per_s = failed_.Sum(now) / RecentSum::kSeconds;
  load.cache_hit_ratio = Share(prefix_hits_.Sum(now), prefix_queries_.Sum(now));
  return load;
}

void LoadMonitor::OnStep(const StepStats& stats) {
  next_->OnStep(stats);
  const Micros now = clock_->Now();
  std::lock_guard lock(mutex_);
  prefix_queries_.Add(now, static_cast<double>(stats.prefix_queries));
  prefix_hits_.Add(now, static_cast<double>(stats.prefix_hits));
}

void LoadMonitor::OnState(const LoopState& state) {
  next_->OnState(state);
  std::lock_guard lock(mutex_);
  now_.state = state;
}

void LoadMonitor::OnFirstToken(Micros time_to_first_token, PrefillMode mode) {
  next_->OnFirstToken(time_to_first_token, mode);
  CountTokens(1);
}

void LoadMonitor::OnTokens(int32_t tokens, Micros since_last) {
  next_->OnTokens(tokens, since_last);
  CountTokens(tokens);
}

void LoadMonitor::OnFinish(const Finish& finish) {
  next_->OnFinish(finish);
  const Micros now = clock_->Now();
  std::lock_guard lock(mutex_);
  finished_.Add(now, 1);
  if (finish.reason == FinishReason::kError) failed_.Add(now, 1);
}

void LoadMonitor::CountTokens(int32_t tokens) {
  const Micros now = clock_->Now();
  std::lock_guard lock(mutex_);
  tokens_.Add(now, tokens);
}

}  // namespace skim
