#include "cli/prompt_file.h"

#include <fstream>
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"

namespace skim {

absl::StatusOr<std::vector<std::string>> ReadPrompts(const std::string& path) {
  std::ifstream file(path);
  if (!file) return absl::NotFoundError(path + ": cannot be read");
  std::vector<std::string> prompts;
  int number = 0;
  for (std::string line; std::getline(file, line);) {
    ++number;
    if (line.empty()) continue;
    const auto value = nlohmann::json::parse(line, nullptr, /*allow_exceptions=*/false);
    const bool has_prompt = value.is_object() && value.contains("prompt") &&
                            value["prompt"].is_string() && value["prompt"] != "";
    if (!has_prompt) {
      return absl::InvalidArgumentError(
          absl::StrCat(path, ", line ", number, ": is not {\"prompt\": \"...\"}"));
    }
    prompts.push_back(value["prompt"]);
  }
  if (prompts.empty()) return absl::InvalidArgumentError(path + ": has no prompts");
  return prompts;
}

}  // namespace skim
