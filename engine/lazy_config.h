// Where a model's prompts can be pruned, who scores, and the named settings: defaults for any
// number of layers, or skim_lazy.json beside the model:
//
//   {"version": 1,
//    "layers": 30,                          the model's, so that a file of another is noticed
//    "boundaries": [18, 23],                ascending in (0, layers)
//    "score_heads": [[[17, 3]], []],        optional: per boundary [layer, query head] pairs,
//                                           layers from the boundary below on; empty: the mean
//                                           over all heads of the last layer
//    "scouts": [{"window": 16,              optional: per boundary who runs ahead of its cuts and
//                "heads": [[21, 4]]},       scores there, in layers from it on, in place of those;
//                or
//               null],                      null: nobody. Needs predictors (engine/predictors.h)
//    "profiles": {                          optional: replaces profiles of these names
//      "fast": {"keep": [0.3, 0.1],         share of the prompt above each boundary
//               "decode": "lazy",           static, lazy, strict, phantom or late; default lazy
//               "revival_budget": 8,        tokens per cut and step; default 8
//               "look_back": 32,            late: tokens per cut before the first is drawn; default 0
//               "score_window": 1}}}        last rows that score; default 1
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/decode_mode.h"
#include "engine/model_config.h"
#include "engine/token_pruner.h"

namespace skim {

// Default profiles that cut at the first boundary with scouts.
inline constexpr std::array kScoutProfiles = {"scout-safe", "scout-fast"};

struct PruneProfile {
  std::string name;
  std::vector<float> keep;  // per boundary, (0, 1], not rising
  DecodeMode decode = DecodeMode::kLazy;
  int32_t revival_budget = 8;
  int32_t window = 1;
  int32_t look_back = 0;
};

struct LazyConfig {
  std::vector<int32_t> boundaries;  // none: prompts cannot be pruned
  ScoreHeads score_heads;           // empty, or per boundary
  std::vector<Scouts> scouts;       // the same
  std::vector<PruneProfile> profiles;
  // Boundaries from whose rows K/V above can be predicted (engine/predictors.h).
  std::vector<int32_t> predicted;
  // Null if there is none. Inline: the RPC layer does not link the engine.
  const PruneProfile* Find(const std::string& name) const {
    for (const PruneProfile& profile : profiles) {
      if (profile.name == name) return &profile;
    }
    return nullptr;
  }
  // The first boundary at which `keep` cuts and from which nothing can be predicted, though
  // somebody sees who is cut there: those who decode, in mode phantom or late, or scouts; 0: none.
  int32_t FirstUnpredicted(const std::vector<float>& keep, DecodeMode decode) const {
    int32_t first = 0;
    float before = 1;
    for (size_t b = 0; b < keep.size(); ++b) {
      const bool cuts = keep[b] < before;
      before = keep[b];
      if (!cuts) continue;
      const bool can = std::ranges::find(predicted, boundaries[b]) != predicted.end();
      if (first == 0 && !can) first = boundaries[b];
      const bool seen = SeesPhantoms(decode) || (!scouts.empty() && scouts[b].any());
      if (first != 0 && seen) return first;
    }
    return 0;
  }
  bool Serves(const PruneProfile& profile) const {
    return FirstUnpredicted(profile.keep, profile.decode) == 0;
  }
};

// `boundaries` given: those, and the file is not looked at. Else the file, else the defaults.
// Errors name file and field.
absl::StatusOr<LazyConfig> LoadLazyConfig(const std::string& model_dir, const ModelConfig& model,
                                          const std::optional<std::vector<int32_t>>& boundaries);

}  // namespace skim
