#include "tests/server/daemon_process.h"

#include <fcntl.h>
#include <grpcpp/grpcpp.h>
#include <poll.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <regex>
#include <sstream>
#include <thread>

#include "base/check.h"

namespace skim {
namespace {

using SteadyTime = std::chrono::steady_clock::time_point;

SteadyTime In(int seconds) {
  return std::chrono::steady_clock::now() + std::chrono::seconds(seconds);
}

}  // namespace

DaemonProcess::DaemonProcess(const std::string& binary,
                             const std::vector<std::string>& arguments) {
  std::vector<std::string> words = {binary, "--listen", "127.0.0.1:0", "--metrics", "127.0.0.1:0"};
  words.insert(words.end(), arguments.begin(), arguments.end());
  std::vector<char*> argv;
  for (std::string& word : words) argv.push_back(word.data());
  argv.push_back(nullptr);

  std::string pattern = (std::filesystem::temp_directory_path() / "skimd-log-XXXXXX").string();
  const int error_fd = mkstemp(pattern.data());
  error_file_ = pattern;
  int pipe_fds[2];
  SKIM_CHECK(error_fd >= 0 && pipe2(pipe_fds, O_CLOEXEC) == 0);
  pid_ = fork();
  SKIM_CHECK(pid_ >= 0);
  if (pid_ == 0) {
    dup2(pipe_fds[1], STDOUT_FILENO);
    dup2(error_fd, STDERR_FILENO);
    execv(binary.c_str(), argv.data());
    _exit(127);
  }
  close(pipe_fds[1]);
  close(error_fd);
  stdout_fd_ = pipe_fds[0];
}

DaemonProcess::~DaemonProcess() {
  if (pid_ > 0) {
    kill(pid_, SIGKILL);
    waitpid(pid_, nullptr, 0);
  }
  close(stdout_fd_);
  std::filesystem::remove(error_file_);
}

bool DaemonProcess::ReadUntilLine(int timeout_s) {
  const SteadyTime give_up = In(timeout_s);
  while (output_.find('\n') == std::string::npos) {
    const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(
        give_up - std::chrono::steady_clock::now());
    pollfd ready{.fd = stdout_fd_, .events = POLLIN, .revents = 0};
    if (left.count() <= 0 || poll(&ready, 1, static_cast<int>(left.count())) <= 0) return false;
    char buffer[256];
    const ssize_t bytes = read(stdout_fd_, buffer, sizeof(buffer));
    if (bytes <= 0) return false;
    output_.append(buffer, static_cast<size_t>(bytes));
  }
  return true;
}

bool DaemonProcess::WaitUntilReady(int timeout_s) {
  if (!ReadUntilLine(timeout_s)) return false;
  static const std::regex kReady(R"(ready grpc=(\S+) metrics=(\S+)\n)");
  std::smatch match;
  if (!std::regex_match(output_, match, kReady)) return false;
  grpc_address_ = match[1];
  metrics_address_ = match[2];
  return true;
}

std::unique_ptr<v1::Inference::Stub> DaemonProcess::NewStub() const {
  grpc::ChannelArguments arguments;
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  return v1::Inference::NewStub(
      grpc::CreateCustomChannel(grpc_address_, grpc::InsecureChannelCredentials(), arguments));
}

void DaemonProcess::Signal(int signal) const {
  if (pid_ > 0) kill(pid_, signal);
}

int DaemonProcess::WaitForExit(int timeout_s) {
  const SteadyTime give_up = In(timeout_s);
  while (pid_ > 0) {
    int status = 0;
    if (waitpid(pid_, &status, WNOHANG) == pid_) {
      exit_code_ = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
      pid_ = -1;
      char buffer[256];
      for (ssize_t n = 0; (n = read(stdout_fd_, buffer, sizeof(buffer))) > 0;) {
        output_.append(buffer, static_cast<size_t>(n));
      }
    } else if (std::chrono::steady_clock::now() > give_up) {
      return -1;
    } else {
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
    }
  }
  return exit_code_;
}

std::string DaemonProcess::error_text() const {
  std::ostringstream text;
  text << std::ifstream(error_file_).rdbuf();
  return text.str();
}

int64_t DaemonProcess::resident_bytes() const {
  std::ifstream statm("/proc/" + std::to_string(pid_) + "/statm");
  int64_t total_pages = 0;
  int64_t resident_pages = 0;
  statm >> total_pages >> resident_pages;
  return resident_pages * sysconf(_SC_PAGESIZE);
}

}  // namespace skim
