// Streams as queues that run only when somebody waits, in a random order where several may
// go on: a host program that forgets to wait, or to order two streams, shows it.
#pragma once

#include <deque>
#include <functional>
#include <memory>
#include <vector>

#include "tests/ptxsim/graphs.h"
#include "tests/ptxsim/thread.h"

namespace ptxsim {

struct Event {
  int recorded = 0;   // records enqueued
  int completed = 0;  // records reached
};

struct Stream {
  struct Work {
    std::function<bool()> ready;  // null: at once
    std::function<void()> run;
  };
  std::deque<Work> queue;
  bool waits_for_default = true;     // and the default stream for it
  std::unique_ptr<Capture> capture;  // not null: work goes there
};

class Streams {
 public:
  explicit Streams(Random* random) : random_(*random) { live_.push_back(&default_); }

  Stream* Create(bool waits_for_default);
  void Destroy(Stream* stream);  // after what it holds has run
  Stream& Get(void* handle);     // 0 = the default stream; a fault for a dead one
  size_t created() const { return created_.size(); }
  const std::vector<Stream*>& live() const { return live_; }

  // Runs until `done`, a random stream's head at a time. A fault if nothing can go on.
  void RunUntil(const std::function<bool()>& done);
  void Drain(Stream& stream) {
    RunUntil([&] { return stream.queue.empty(); });
  }
  void DrainAll();
  bool Idle() const;

 private:
  Random& random_;
  Stream default_;
  std::vector<std::unique_ptr<Stream>> created_;
  std::vector<Stream*> live_;
};

}  // namespace ptxsim
