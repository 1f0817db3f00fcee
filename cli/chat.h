// skim chat: a conversation, turn by turn. Ctrl-C cancels the answer that is running and
// returns to the prompt, Ctrl-D ends. Without a terminal each line of input is one turn.
#pragma once

#include <CLI/CLI.hpp>
#include <optional>
#include <string>

#include "cli/command.h"
#include "cli/interrupts.h"
#include "cli/sampling_flags.h"

namespace skim {

class ChatCommand final : public Command {
 public:
  explicit ChatCommand(CLI::App* app);
  ExitCode Run(const ConnectionOptions& options) override;

 private:
  // Answers what `request_` ends with and adds the answer to it. A failed turn is taken back.
  ExitCode Answer(const Connection& connection, Interrupts* interrupts, std::string_view server);

  SamplingFlags sampling_;
  std::optional<std::string> system_;
  bool stats_ = false;
  v1::GenerateRequest request_;  // grows by two messages a turn
};

}  // namespace skim
