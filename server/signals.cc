#include "server/signals.h"

#include <pthread.h>

#include <chrono>
#include <cstdlib>

namespace skim {

Signals::Signals() {
  sigemptyset(&set_);
  sigaddset(&set_, SIGTERM);
  sigaddset(&set_, SIGINT);
  pthread_sigmask(SIG_BLOCK, &set_, nullptr);
  thread_ = std::thread([this] { Listen(); });
}

Signals::~Signals() {
  {
    std::lock_guard lock(mutex_);
    ending_ = true;
  }
  pthread_kill(thread_.native_handle(), SIGTERM);  // ends its sigwait
  thread_.join();
}

void Signals::BeginServing() {
  std::lock_guard lock(mutex_);
  serving_ = true;
}

bool Signals::WaitForStop(Micros timeout) {
  std::unique_lock lock(mutex_);
  return stop_.wait_for(lock, std::chrono::microseconds(timeout), [&] { return stop_asked_; });
}

void Signals::Listen() {
  for (;;) {
    int signal = 0;
    sigwait(&set_, &signal);
    std::lock_guard lock(mutex_);
    if (ending_) return;
    if (!serving_) std::_Exit(0);
    if (stop_asked_) std::_Exit(128 + signal);
    stop_asked_ = true;
    stop_.notify_all();
  }
}

}  // namespace skim
