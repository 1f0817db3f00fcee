// skim sweep: every drafter and draft length on the same prompts, against a running daemon.
#pragma once

#include <CLI/CLI.hpp>
#include <string>
#include <vector>

#include "cli/command.h"
#include "cli/sweep_report.h"

namespace skim {

class SweepCommand final : public Command {
 public:
  explicit SweepCommand(CLI::App* app);
  ExitCode Run(const ConnectionOptions& options) override;

 private:
  v1::GenerateRequest RequestOf(const std::string& prompt, const SweepSetting& setting,
                                bool chat) const;
  absl::Status WriteJson(const nlohmann::ordered_json& value) const;

  std::string prompt_file_;
  std::vector<std::string> drafters_;
  std::vector<uint32_t> exits_;
  std::vector<uint32_t> draft_tokens_ = {2, 4, 8};
  uint32_t max_tokens_ = 128;
  size_t most_prompts_ = 16;
  bool raw_ = false;
  std::string json_file_;
};

}  // namespace skim
