// SIGTERM and SIGINT, taken by a thread of their own with sigwait: nothing ever runs in a
// signal handler. The first asks for a shutdown, the second ends the process at once.
#pragma once

#include <condition_variable>
#include <csignal>
#include <mutex>
#include <thread>

#include "base/types.h"

namespace skim {

class Signals {
 public:
  // Blocks both signals in this thread and in all that it starts later, so: construct it
  // before any other thread.
  Signals();
  ~Signals();
  Signals(const Signals&) = delete;
  Signals& operator=(const Signals&) = delete;

  // Before this, the first signal ends the process at once, too: nobody is being served.
  void BeginServing();
  // True once a shutdown was asked for; false after `timeout`.
  bool WaitForStop(Micros timeout);

 private:
  void Listen();

  sigset_t set_;
  std::mutex mutex_;
  std::condition_variable stop_;
  bool serving_ = false;
  bool stop_asked_ = false;
  bool ending_ = false;
  std::thread thread_;
};

}  // namespace skim
