// skim tokenize: how the model's tokenizer cuts a text.
#pragma once

#include <CLI/CLI.hpp>
#include <optional>
#include <string>

#include "cli/command.h"

namespace skim {

class TokenizeCommand final : public Command {
 public:
  explicit TokenizeCommand(CLI::App* app);
  ExitCode Run(const ConnectionOptions& options) override;

 private:
  v1::TokenizeRequest MakeRequest() const;

  std::optional<std::string> text_;
  bool chat_ = false;
  bool parse_special_ = false;
  bool ids_only_ = false;
};

}  // namespace skim
