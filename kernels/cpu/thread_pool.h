// The worker threads of the CPU backend: one static split per op, one barrier. The caller
// is thread 0, so a pool of one spawns nothing. Workers spin briefly between ops of a step
// and sleep on a futex when idle.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <type_traits>
#include <utility>

namespace skim {

class ThreadPool {
 public:
  // Pins worker i to the i-th physical core the process may use if `pin`; the first core is
  // the caller's.
  ThreadPool(int threads, bool pin);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int threads() const { return threads_; }

  // Pins the calling thread to the caller's core, if the pool pins. Else a worker that wakes
  // the caller tends to pull it to its own core. Threads started later inherit the pin: only
  // for a thread that starts none.
  void BindCaller();

  // Calls body(thread) once on every thread, thread in [0, threads()); returns when all are
  // done. One caller at a time; not from inside a body. No allocation.
  template <typename Body>
  void Run(Body&& body) {
    RunErased([](void* b, int t) { (*static_cast<std::remove_reference_t<Body>*>(b))(t); }, &body);
  }

  // Calls body(begin, end) on each thread with its contiguous share of [0, items), in
  // multiples of `grain`. Which thread gets what must not change any result.
  template <typename Body>
  void Split(int64_t items, int64_t grain, Body&& body) {
    const int64_t chunks = (items + grain - 1) / grain;
    Run([&](int t) {
      const int64_t begin = chunks * t / threads_ * grain;
      int64_t end = chunks * (t + 1) / threads_ * grain;
      if (end > items) end = items;
      if (begin < end) body(begin, end);
    });
  }

 private:
  void RunErased(void (*call)(void*, int), void* body);

  struct State;
  const int threads_;
  std::unique_ptr<State> state_;
};

}  // namespace skim
