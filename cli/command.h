// What every subcommand of `skim` shares. Each command is a class that registers its flags on
// construction and talks to the daemon in Run.
#pragma once

#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "cli/connection.h"
#include "cli/errors.h"

namespace skim {

class Command {
 public:
  virtual ~Command() = default;
  // Called once, after the flags are parsed.
  virtual ExitCode Run(const ConnectionOptions& options) = 0;
};

// "skim: ..." on stderr. Both return the exit code that goes with it.
ExitCode Complain(const grpc::Status& status, std::string_view server);
ExitCode ComplainAboutFlags(const absl::Status& status);

// All of standard input.
std::string ReadStdin();

// Generated text as it may be shown: unchanged to files and pipes; on a terminal without the
// control characters that would move the cursor or change its settings.
class TextOutput {
 public:
  TextOutput();
  void Write(std::string_view text);  // flushed at once
  // Starts a new line unless at the beginning of one.
  void EndLine();

 private:
  const bool is_terminal_;
  bool at_line_start_ = true;
};

// Usage and timings of one choice, one line.
std::string Describe(const v1::Final& final);

}  // namespace skim
