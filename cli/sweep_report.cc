#include "cli/sweep_report.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "cli/speculation_flag.h"
#include "cli/weight_format_name.h"

namespace skim {
namespace {

constexpr char kOff[] = "off";
constexpr char kAuto[] = "auto";

std::vector<std::string> DraftersOf(const v1::GetModelResponse& model,
                                    const std::vector<uint32_t>& exits) {
  std::vector<std::string> drafters;
  for (const std::string& name : model.drafters()) {
    if (name != "self") {
      drafters.push_back(name);
      continue;
    }
    for (const uint32_t layer : exits) drafters.push_back(absl::StrCat("self:", layer));
    for (int i = 1; i < model.weight_formats_size(); ++i) {
      drafters.push_back(absl::StrCat("self:", WeightFormatName(model.weight_formats(i))));
    }
  }
  return drafters;
}

double Speedup(const SweepResult& result, const SweepResult& off) {
  return off.tokens_per_s() > 0 ? result.tokens_per_s() / off.tokens_per_s() : 0;
}

}  // namespace

absl::StatusOr<std::vector<SweepSetting>> SweepSettings(const v1::GetModelResponse& model,
                                                        std::vector<std::string> drafters,
                                                        const std::vector<uint32_t>& exits,
                                                        const std::vector<uint32_t>& draft_tokens) {
  if (drafters.empty()) drafters = DraftersOf(model, exits);
  SweepSetting off;
  off.drafter = kOff;
  off.speculation.mutable_off();
  std::vector<SweepSetting> settings = {off};
  for (const std::string& drafter : drafters) {
    SweepSetting setting;
    setting.drafter = drafter;
    if (drafter == kOff || !ParseSpeculation(drafter, &setting.speculation).ok()) {
      return absl::InvalidArgumentError("--drafters: '" + drafter + "' is no drafter");
    }
    if (drafter == kAuto) {
      settings.push_back(setting);
      continue;
    }
    for (const uint32_t tokens : draft_tokens) {
      if (tokens == 0) return absl::InvalidArgumentError("--draft-tokens: must be at least 1");
      setting.speculation.set_max_draft_tokens(tokens);
      settings.push_back(setting);
    }
  }
  return settings;
}

void SweepResult::Add(const v1::Final& final) {
  if (final.usage().generated_tokens() > 1) {
    tokens += final.usage().generated_tokens() - 1;
    seconds += final.timings().generation_ms() / 1000;
  }
  for (const v1::SpeculationOutcome::Source& source : final.speculation().sources()) {
    rounds += source.rounds();
    drafted += source.draft_tokens();
    accepted += source.accepted_tokens();
  }
}

std::string SweepTable(const std::vector<SweepSetting>& settings,
                       const std::vector<SweepResult>& results) {
  std::string table = absl::StrFormat("%-14s %7s %11s %9s %9s %13s\n", "drafter", "drafts",
                                      "tokens/s", "x off", "accepted", "tokens/round");
  for (size_t i = 0; i < settings.size(); ++i) {
    const SweepResult& result = results[i];
    const uint32_t drafts = settings[i].draft_tokens();
    absl::StrAppend(&table, absl::StrFormat("%-14s %7s ", settings[i].drafter,
                                            drafts > 0 ? absl::StrCat(drafts) : "-"));
    if (!result.refused.empty()) {
      absl::StrAppend(&table, "refused: ", result.refused, "\n");
      continue;
    }
    absl::StrAppend(&table, absl::StrFormat("%11.1f %8.2fx", result.tokens_per_s(),
                                            Speedup(result, results.front())));
    if (settings[i].drafter != kOff) {
      absl::StrAppend(&table, absl::StrFormat(" %7.1f %% %13.2f", 100 * result.acceptance(),
                                              result.tokens_per_round()));
    }
    table += "\n";
  }
  return table;
}

nlohmann::ordered_json SweepJson(const std::string& model, size_t prompts,
                                 const std::vector<SweepSetting>& settings,
                                 const std::vector<SweepResult>& results) {
  nlohmann::ordered_json rows = nlohmann::ordered_json::array();
  for (size_t i = 0; i < settings.size(); ++i) {
    const SweepResult& result = results[i];
    nlohmann::ordered_json row = {{"drafter", settings[i].drafter}};
    if (settings[i].draft_tokens() > 0) row["draft_tokens"] = settings[i].draft_tokens();
    if (!result.refused.empty()) {
      row["refused"] = result.refused;
    } else {
      row["tokens_per_s"] = result.tokens_per_s();
      row["speedup"] = Speedup(result, results.front());
      row["acceptance"] = result.acceptance();
      row["tokens_per_round"] = result.tokens_per_round();
    }
    rows.push_back(row);
  }
  return {{"model", model}, {"prompts", prompts}, {"settings", rows}};
}

}  // namespace skim
