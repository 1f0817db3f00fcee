#include "kernels/cpu/thread_pool.h"

#include <algorithm>
#include <thread>
#include <vector>

#include "base/check.h"
#include "kernels/cpu/cores.h"

namespace skim {
namespace {

// In pauses, 40 to 140 cycles each: the longest spin outlasts the serial work between two
// ops of a step and is too short to matter on an idle machine. The shortest still outlasts a
// thread that wakes from sleep: below that, one sleep makes the next wait fail to spin too,
// and the pool stays asleep between ops (40 to 130 us each instead of 1).
constexpr int kMinSpins = 512;
constexpr int kMaxSpins = 2048;
constexpr size_t kCacheLine = 64;

inline void Pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#endif
}

// Waits until `value` is no longer `old`: spins, then sleeps. The spin length follows
// what worked last time: doubled after a wait that ended while spinning, halved after a sleep.
class Waiter {
 public:
  explicit Waiter(bool may_spin) : spins_(may_spin ? kMaxSpins : 0) {}

  uint32_t WaitWhile(const std::atomic<uint32_t>& value, uint32_t old) {
    for (int i = 0; i < spins_; ++i) {
      const uint32_t now = value.load(std::memory_order_acquire);
      if (now != old) {
        spins_ = std::min(spins_ * 2, kMaxSpins);
        return now;
      }
      Pause();
    }
    if (spins_ > 0) spins_ = std::max(spins_ / 2, kMinSpins);
    value.wait(old, std::memory_order_acquire);
    return value.load(std::memory_order_acquire);
  }

 private:
  int spins_;
};

}  // namespace

struct ThreadPool::State {
  State(bool may_spin, int caller_cpu) : caller_cpu(caller_cpu), caller(may_spin) {}

  const int caller_cpu;  // negative: not pinned

  // Own lines: workers poll `epoch` while others still count `pending` down.
  alignas(kCacheLine) std::atomic<uint32_t> epoch{0};  // one per Run; the last one ends the pool
  alignas(kCacheLine) std::atomic<uint32_t> pending{0};
  alignas(kCacheLine) void (*call)(void*, int) = nullptr;  // written before epoch, read after
  void* body = nullptr;
  bool stop = false;
  Waiter caller;
  std::vector<std::thread> workers;

  void Work(int thread, Waiter waiter) {
    uint32_t seen = 0;
    while (true) {
      seen = waiter.WaitWhile(epoch, seen);
      if (stop) return;
      call(body, thread);
      if (pending.fetch_sub(1, std::memory_order_acq_rel) == 1) pending.notify_one();
    }
  }

  void NextEpoch() {
    epoch.fetch_add(1, std::memory_order_release);
    epoch.notify_all();
  }
};

ThreadPool::ThreadPool(int threads, bool pin) : threads_(threads) {
  SKIM_CHECK(threads >= 1);
  const std::vector<int> cores = PhysicalCores();
  // A spinner on a shared core keeps the thread it waits for from running.
  const bool may_spin = threads <= static_cast<int>(cores.size());
  state_ = std::make_unique<State>(may_spin, pin ? cores[0] : -1);
  state_->workers.reserve(threads - 1);
  for (int t = 1; t < threads; ++t) {
    state_->workers.emplace_back(
        [state = state_.get(), t, pin, may_spin, cpu = cores[t % cores.size()]] {
          if (pin) PinThisThread(cpu);
          state->Work(t, Waiter(may_spin));
        });
  }
}

ThreadPool::~ThreadPool() {
  state_->stop = true;
  state_->NextEpoch();
  for (std::thread& worker : state_->workers) worker.join();
}

void ThreadPool::BindCaller() {
  if (state_->caller_cpu >= 0 && threads_ > 1) PinThisThread(state_->caller_cpu);
}

void ThreadPool::RunErased(void (*call)(void*, int), void* body) {
  State& state = *state_;
  if (threads_ > 1) {
    state.call = call;
    state.body = body;
    state.pending.store(threads_ - 1, std::memory_order_relaxed);
    state.NextEpoch();
  }
  call(body, 0);
  uint32_t pending = state.pending.load(std::memory_order_acquire);
  while (pending != 0) pending = state.caller.WaitWhile(state.pending, pending);
}

}  // namespace skim
