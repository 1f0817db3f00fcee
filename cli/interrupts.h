// Ctrl-C as something a program can act on: cancels the call that is running, or tells the
// program if none is. Construct it before anything that starts threads (gRPC does), because
// it blocks SIGINT for the thread that constructs it and for those started later.
#pragma once

#include <grpcpp/grpcpp.h>

#include <functional>
#include <mutex>
#include <thread>

namespace skim {

class Interrupts {
 public:
  // `when_idle` runs on this object's thread whenever Ctrl-C meets no running call.
  explicit Interrupts(std::function<void()> when_idle);
  ~Interrupts();
  Interrupts(const Interrupts&) = delete;
  Interrupts& operator=(const Interrupts&) = delete;

  // While one lives, Ctrl-C cancels its call. One at a time.
  class Scope {
   public:
    Scope(Interrupts* owner, grpc::ClientContext* context);
    ~Scope();
    bool interrupted() const;

   private:
    Interrupts* const owner_;
  };

 private:
  void Watch();
  void OnInterrupt();

  const std::function<void()> when_idle_;
  const int signal_fd_;
  const int stop_fd_;
  mutable std::mutex mutex_;
  grpc::ClientContext* running_ = nullptr;  // guarded by mutex_; borrowed from the Scope
  bool interrupted_ = false;                // guarded by mutex_
  std::thread watcher_;
};

}  // namespace skim
