// skim generate: one prompt in, text out as it arrives.
#pragma once

#include <CLI/CLI.hpp>
#include <map>
#include <optional>
#include <string>

#include "cli/command.h"
#include "cli/sampling_flags.h"

namespace skim {

class GenerateCommand final : public Command {
 public:
  explicit GenerateCommand(CLI::App* app);
  ExitCode Run(const ConnectionOptions& options) override;

 private:
  absl::StatusOr<v1::GenerateRequest> MakeRequest() const;
  void Show(const v1::GenerateResponse& response, TextOutput* output);

  SamplingFlags sampling_;
  std::optional<std::string> prompt_;
  std::optional<uint32_t> choices_;
  std::optional<uint32_t> logprobs_;
  bool prompt_logprobs_ = false;
  bool parse_special_ = false;
  bool json_ = false;
  bool stats_ = false;
  // Choices after the first wait until the first is complete: text must not interleave.
  std::map<uint32_t, std::string> held_back_;
};

}  // namespace skim
