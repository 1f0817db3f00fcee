#include "loadtest/child_process.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <thread>

#include "base/clock.h"

extern char** environ;

namespace skim {
namespace {

constexpr Micros kPollInterval = 5'000;

Micros Now() { return SteadyClock().Now(); }

// Undoes what this process did to signals: a child that inherits a blocked SIGINT cannot be
// interrupted.
class SpawnAttributes {
 public:
  SpawnAttributes() {
    posix_spawnattr_init(&attributes_);
    sigset_t none;
    sigemptyset(&none);
    posix_spawnattr_setsigmask(&attributes_, &none);
    posix_spawnattr_setflags(&attributes_, POSIX_SPAWN_SETSIGMASK);
  }
  ~SpawnAttributes() { posix_spawnattr_destroy(&attributes_); }
  const posix_spawnattr_t* get() const { return &attributes_; }

 private:
  posix_spawnattr_t attributes_;
};

class SpawnFiles {
 public:
  SpawnFiles(int stdout_fd, const std::string& stdin_path, const std::string& stderr_path) {
    posix_spawn_file_actions_init(&actions_);
    posix_spawn_file_actions_addopen(&actions_, STDIN_FILENO,
                                     stdin_path.empty() ? "/dev/null" : stdin_path.c_str(),
                                     O_RDONLY, 0);
    posix_spawn_file_actions_adddup2(&actions_, stdout_fd, STDOUT_FILENO);
    if (!stderr_path.empty()) {
      posix_spawn_file_actions_addopen(&actions_, STDERR_FILENO, stderr_path.c_str(),
                                       O_WRONLY | O_CREAT | O_TRUNC, 0644);
    }
  }
  ~SpawnFiles() { posix_spawn_file_actions_destroy(&actions_); }
  const posix_spawn_file_actions_t* get() const { return &actions_; }

 private:
  posix_spawn_file_actions_t actions_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<ChildProcess>> ChildProcess::Start(
    const std::vector<std::string>& argv, const std::string& stdin_path,
    const std::string& stderr_path) {
  int fds[2];
  if (pipe2(fds, O_CLOEXEC) != 0) {
    return absl::InternalError(std::string("pipe: ") + std::strerror(errno));
  }
  std::vector<char*> arguments;
  for (const std::string& argument : argv) arguments.push_back(const_cast<char*>(argument.c_str()));
  arguments.push_back(nullptr);
  const SpawnFiles files(fds[1], stdin_path, stderr_path);
  const SpawnAttributes attributes;
  pid_t pid = 0;
  const int error =
      posix_spawn(&pid, arguments[0], files.get(), attributes.get(), arguments.data(), environ);
  close(fds[1]);
  if (error != 0) {
    close(fds[0]);
    return absl::NotFoundError("cannot start '" + argv[0] + "': " + std::strerror(error));
  }
  return std::unique_ptr<ChildProcess>(new ChildProcess(pid, fds[0]));
}

ChildProcess::ChildProcess(pid_t pid, int stdout_fd) : pid_(pid), stdout_fd_(stdout_fd) {}

ChildProcess::~ChildProcess() {
  if (!exit_) {
    kill(pid_, SIGKILL);
    waitpid(pid_, nullptr, 0);
  }
  close(stdout_fd_);
}

absl::Status ChildProcess::Fill(Micros deadline) {
  const Micros left = std::max<Micros>(deadline - Now(), 0);
  pollfd ready = {stdout_fd_, POLLIN, 0};
  const int count = poll(&ready, 1, static_cast<int>(left / 1000));
  if (count == 0) return absl::DeadlineExceededError("no output in time");
  char chunk[4096];
  const ssize_t got = count < 0 ? -1 : read(stdout_fd_, chunk, sizeof(chunk));
  if (got < 0 && errno == EINTR) return absl::OkStatus();
  if (got <= 0) return absl::OutOfRangeError("end of output");
  buffer_.append(chunk, static_cast<size_t>(got));
  return absl::OkStatus();
}

absl::StatusOr<std::string> ChildProcess::ReadLine(Micros timeout) {
  const Micros deadline = Now() + timeout;
  size_t end;
  while ((end = buffer_.find('\n')) == std::string::npos) {
    if (absl::Status status = Fill(deadline); !status.ok()) return status;
  }
  std::string line = buffer_.substr(0, end);
  buffer_.erase(0, end + 1);
  return line;
}

absl::StatusOr<std::string> ChildProcess::ReadAll(Micros timeout) {
  const Micros deadline = Now() + timeout;
  while (true) {
    const absl::Status status = Fill(deadline);
    if (absl::IsOutOfRange(status)) return std::move(buffer_);
    if (!status.ok()) return status;
  }
}

void ChildProcess::Signal(int number) {
  if (!exit_) kill(pid_, number);
}

absl::StatusOr<int> ChildProcess::Wait(Micros timeout) {
  const Micros deadline = Now() + timeout;
  while (!exit_) {
    int status = 0;
    if (waitpid(pid_, &status, WNOHANG) == pid_) {
      exit_ = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
    } else if (Now() >= deadline) {
      return absl::DeadlineExceededError("the program still runs");
    } else {
      std::this_thread::sleep_for(std::chrono::microseconds(kPollInterval));
    }
  }
  return *exit_;
}

}  // namespace skim
