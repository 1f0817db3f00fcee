#include "cli/interrupts.h"

#include <poll.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include <utility>

namespace skim {
namespace {

int BlockAndOpenSignalFd() {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGINT);
  pthread_sigmask(SIG_BLOCK, &set, nullptr);
  return signalfd(-1, &set, SFD_CLOEXEC);
}

}  // namespace

Interrupts::Interrupts(std::function<void()> when_idle)
    : when_idle_(std::move(when_idle)),
      signal_fd_(BlockAndOpenSignalFd()),
      stop_fd_(eventfd(0, EFD_CLOEXEC)),
      watcher_([this] { Watch(); }) {}

Interrupts::~Interrupts() {
  eventfd_write(stop_fd_, 1);
  watcher_.join();
  close(signal_fd_);
  close(stop_fd_);
}

void Interrupts::Watch() {
  pollfd fds[] = {{signal_fd_, POLLIN, 0}, {stop_fd_, POLLIN, 0}};
  while (true) {
    if (poll(fds, 2, -1) < 0) continue;
    if (fds[1].revents != 0) return;
    signalfd_siginfo info;
    if (read(signal_fd_, &info, sizeof(info)) == sizeof(info)) OnInterrupt();
  }
}

void Interrupts::OnInterrupt() {
  {
    std::lock_guard lock(mutex_);
    if (running_ != nullptr) {
      interrupted_ = true;
      running_->TryCancel();
      return;
    }
  }
  when_idle_();
}

Interrupts::Scope::Scope(Interrupts* owner, grpc::ClientContext* context) : owner_(owner) {
  std::lock_guard lock(owner_->mutex_);
  owner_->running_ = context;
  owner_->interrupted_ = false;
}

Interrupts::Scope::~Scope() {
  std::lock_guard lock(owner_->mutex_);
  owner_->running_ = nullptr;
}

bool Interrupts::Scope::interrupted() const {
  std::lock_guard lock(owner_->mutex_);
  return owner_->interrupted_;
}

}  // namespace skim
