// What `skim sweep` compares, and what came of it.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "skim/v1/inference.pb.h"

namespace skim {

struct SweepSetting {
  std::string drafter;  // as of --speculation
  v1::Speculation speculation;

  // A round at most; 0: the server's default.
  uint32_t draft_tokens() const { return speculation.max_draft_tokens(); }
};

// "off" first, then every drafter with every number of drafts. Without `drafters` those that the
// daemon has: lookup, the model up to each of `exits` and in each smaller format, and auto, which
// chooses the number itself. INVALID_ARGUMENT names the flag.
absl::StatusOr<std::vector<SweepSetting>> SweepSettings(const v1::GetModelResponse& model,
                                                        std::vector<std::string> drafters,
                                                        const std::vector<uint32_t>& exits,
                                                        const std::vector<uint32_t>& draft_tokens);

// One setting's sums over all prompts.
struct SweepResult {
  std::string refused;  // why; the daemon's words. Then the rest is 0.
  double tokens = 0;    // behind the first of each answer
  double seconds = 0;   // from the first token to the last, by the daemon's clock
  double rounds = 0, drafted = 0, accepted = 0;

  void Add(const v1::Final& final);
  double tokens_per_s() const { return seconds > 0 ? tokens / seconds : 0; }
  double acceptance() const { return drafted > 0 ? accepted / drafted : 0; }
  double tokens_per_round() const { return rounds > 0 ? 1 + accepted / rounds : 0; }
};

// Both take the results in the order of the settings, that of "off" first.
std::string SweepTable(const std::vector<SweepSetting>& settings,
                       const std::vector<SweepResult>& results);
nlohmann::ordered_json SweepJson(const std::string& model, size_t prompts,
                                 const std::vector<SweepSetting>& settings,
                                 const std::vector<SweepResult>& results);

}  // namespace skim
