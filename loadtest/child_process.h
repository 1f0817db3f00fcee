// A program that this process starts, talks to and is sure to outlive. One thread only.
#pragma once

#include <sys/types.h>

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "base/types.h"

namespace skim {

class ChildProcess {
 public:
  // `argv` starts with the program's path. Standard input is read from the file `stdin_path`
  // and standard error goes to the file `stderr_path`; if empty, both are /dev/null and ours.
  static absl::StatusOr<std::unique_ptr<ChildProcess>> Start(const std::vector<std::string>& argv,
                                                             const std::string& stdin_path,
                                                             const std::string& stderr_path);
  ~ChildProcess();  // kills and reaps it if it still runs
  ChildProcess(const ChildProcess&) = delete;
  ChildProcess& operator=(const ChildProcess&) = delete;

  // The next line of its standard output, without the line's end. OUT_OF_RANGE at the end of
  // output, DEADLINE_EXCEEDED after `timeout`.
  absl::StatusOr<std::string> ReadLine(Micros timeout);
  // All that is left of it.
  absl::StatusOr<std::string> ReadAll(Micros timeout);

  void Signal(int number);

  // The exit status, or 128 + the signal that ended it, as shells count. DEADLINE_EXCEEDED
  // after `timeout`.
  absl::StatusOr<int> Wait(Micros timeout);

  pid_t pid() const { return pid_; }

 private:
  ChildProcess(pid_t pid, int stdout_fd);
  absl::Status Fill(Micros deadline);  // more output into buffer_

  const pid_t pid_;
  const int stdout_fd_;
  std::string buffer_;
  std::optional<int> exit_;
};

}  // namespace skim
