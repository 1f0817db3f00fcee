#include "engine/lazy_config.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdlib>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "engine/json_file.h"

namespace skim {
namespace {

using nlohmann::json;

constexpr int64_t kMaxFileBytes = 1 << 20;
constexpr int32_t kMaxBoundaries = 16;
constexpr size_t kMaxHeads = 256;
constexpr int32_t kMaxBudget = 1024;
constexpr int32_t kMaxWindow = 64;

// Where default profiles cut, as shares of the depth, and what goes on there.
struct DefaultProfile {
  const char* name;
  std::vector<std::pair<double, float>> cuts;
  DecodeMode decode;
  int32_t revival_budget;
  float scouted = 1;  // what goes on at the first boundary with scouts, below all of those
};

const std::vector<DefaultProfile>& DefaultProfiles() {
  static const std::vector<DefaultProfile> kProfiles = {
      // Text that is copied needs all of itself in the layers above .60 (docs/architecture.md, [P13]).
      {"safe", {{.70, .5f}, {.77, .2f}}, DecodeMode::kLazy, 8},
      {"fast", {{.60, .3f}, {.77, .1f}}, DecodeMode::kLazy, 8},
      {"aggressive", {{.60, .15f}, {.77, .05f}}, DecodeMode::kLazy, 32},
      {"phantom", {{.60, .3f}, {.77, .1f}}, DecodeMode::kPhantom, 0},
      // What the early cut misses comes back late ([P14]).
      {kScoutProfiles[0], {{.60, .25f}, {.77, .1f}}, DecodeMode::kLate, 2, .5f},
      {kScoutProfiles[1], {{.60, .2f}, {.77, .1f}}, DecodeMode::kLate, 2, .35f},
      // LazyLLM's layout: three cuts after equal parts of the layers, and its decoding.
      {"paper", {{.30, .5f}, {.60, .25f}, {.90, .125f}}, DecodeMode::kStrict, 64},
  };
  return kProfiles;
}

int32_t LayerAt(double depth, int32_t layers) {
  return static_cast<int32_t>(std::lround(depth * layers));
}

// The union of all cuts of the default profiles.
std::vector<int32_t> DefaultBoundaries(int32_t layers) {
  std::vector<int32_t> boundaries;
  for (const DefaultProfile& profile : DefaultProfiles()) {
    for (const auto& [depth, keep] : profile.cuts) {
      const int32_t layer = LayerAt(depth, layers);
      if (layer > 0 && layer < layers) boundaries.push_back(layer);
    }
  }
  std::ranges::sort(boundaries);
  boundaries.erase(std::unique(boundaries.begin(), boundaries.end()), boundaries.end());
  return boundaries;
}

// The default profiles that these boundaries can serve: each cut needs one near its place.
std::vector<PruneProfile> ProfilesFor(const std::vector<int32_t>& boundaries,
                                      const std::vector<Scouts>& scouts, int32_t layers) {
  std::vector<PruneProfile> profiles;
  const auto scouted = std::ranges::find_if(scouts, &Scouts::any) - scouts.begin();
  for (const DefaultProfile& from : DefaultProfiles()) {
    PruneProfile profile{from.name, std::vector<float>(boundaries.size(), 1), from.decode,
                         from.revival_budget, 1};
    bool fits = !boundaries.empty();
    if (from.scouted < 1) {
      fits =
          scouted < std::ssize(scouts) && boundaries[scouted] < LayerAt(from.cuts[0].first, layers);
      if (fits) std::fill(profile.keep.begin() + scouted, profile.keep.end(), from.scouted);
    }
    for (const auto& [depth, keep] : from.cuts) {
      const int32_t wanted = LayerAt(depth, layers);
      if (wanted <= 0 || wanted >= layers) continue;
      const auto nearest = std::ranges::min_element(
          boundaries, {}, [wanted](int32_t boundary) { return std::abs(boundary - wanted); });
      if (nearest == boundaries.end() || std::abs(*nearest - wanted) * 20 > layers) {
        fits = false;
        break;
      }
      std::fill(profile.keep.begin() + (nearest - boundaries.begin()), profile.keep.end(), keep);
    }
    if (fits) profiles.push_back(std::move(profile));
  }
  return profiles;
}

absl::Status CheckBoundaries(const std::vector<int32_t>& boundaries, int32_t layers,
                             const std::string& name) {
  if (boundaries.size() > kMaxBoundaries) {
    return absl::InvalidArgumentError(
        absl::StrCat(name, " has more than ", kMaxBoundaries, " entries"));
  }
  int32_t before = 0;
  for (const int32_t boundary : boundaries) {
    if (boundary <= before || boundary >= layers) {
      return absl::InvalidArgumentError(
          absl::StrCat(name, " must ascend and lie between the layers, 1 to ", layers - 1));
    }
    before = boundary;
  }
  return absl::OkStatus();
}

absl::Status CheckKeys(const json& object, std::initializer_list<const char*> known,
                       const std::string& where) {
  for (const auto& [key, value] : object.items()) {
    if (std::ranges::find(known, key) == known.end()) {
      return absl::InvalidArgumentError(absl::StrCat(where, ": \"", key, "\" is unknown"));
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<int32_t>> ReadBoundaries(const JsonFields& fields, int32_t layers,
                                                    const std::string& path) {
  const json* list = fields.Get("boundaries");
  if (list == nullptr) return fields.Error("boundaries", "is missing");
  if (!list->is_array() || list->empty()) return fields.Error("boundaries", "is no list of layers");
  std::vector<int32_t> boundaries;
  for (const json& entry : *list) {
    if (!entry.is_number_integer() || entry < 0 || entry > layers) {
      return fields.Error("boundaries", "holds something that is no layer");
    }
    boundaries.push_back(entry.get<int32_t>());
  }
  SKIM_RETURN_IF_ERROR(CheckBoundaries(boundaries, layers, path + ": boundaries"));
  return boundaries;
}

// [layer, head] pairs of layers [first, end), for `boundary`.
absl::StatusOr<std::vector<ScoreHead>> ReadHeads(const JsonFields& fields, const char* name,
                                                 const json& pairs, const ModelConfig& model,
                                                 int32_t boundary, int32_t first, int32_t end) {
  std::vector<ScoreHead> heads;
  if (!pairs.is_array() || pairs.size() > kMaxHeads) {
    return fields.Error(name, "holds something that is no list of heads");
  }
  for (const json& pair : pairs) {
    if (!pair.is_array() || pair.size() != 2 || !pair[0].is_number_integer() ||
        !pair[1].is_number_integer()) {
      return fields.Error(name, "holds something that is not [layer, head]");
    }
    const auto layer = pair[0].get<int64_t>(), head = pair[1].get<int64_t>();
    if (layer < first || layer >= end) {
      return fields.Error(name, absl::StrCat("names layer ", layer, " for boundary ", boundary,
                                             ", not one of ", first, " to ", end - 1));
    }
    if (head < 0 || head >= model.heads) {
      return fields.Error(name, absl::StrCat("names head ", head, " of ", model.heads));
    }
    heads.push_back({static_cast<int32_t>(layer), static_cast<int32_t>(head)});
  }
  return heads;
}

absl::StatusOr<std::vector<Scouts>> ReadScouts(const JsonFields& fields, const ModelConfig& model,
                                               const std::vector<int32_t>& boundaries,
                                               const std::string& path) {
  std::vector<Scouts> all;
  const json* list = fields.Get("scouts");
  if (list == nullptr) return all;
  if (!list->is_array() || list->size() != boundaries.size()) {
    return fields.Error("scouts", "needs an object or null for each boundary");
  }
  for (size_t b = 0; b < boundaries.size(); ++b) {
    Scouts& scouts = all.emplace_back();
    const json& object = (*list)[b];
    if (object.is_null()) continue;
    if (!object.is_object()) return fields.Error("scouts", "holds something that is no object");
    const std::string where = absl::StrCat(path, ": scouts of boundary ", boundaries[b]);
    SKIM_RETURN_IF_ERROR(CheckKeys(object, {"window", "heads"}, where));
    const JsonFields of(object, where);
    SKIM_ASSIGN_OR_RETURN(const int64_t window, of.Int("window", 16, 1, kMaxWindow));
    scouts.window = static_cast<int32_t>(window);
    const json* heads = of.Get("heads");
    if (heads == nullptr || heads->empty()) return of.Error("heads", "is missing or empty");
    SKIM_ASSIGN_OR_RETURN(scouts.heads, ReadHeads(of, "heads", *heads, model, boundaries[b],
                                                  boundaries[b], model.layers));
  }
  return all;
}

absl::StatusOr<ScoreHeads> ReadScoreHeads(const JsonFields& fields, const ModelConfig& model,
                                          const std::vector<int32_t>& boundaries) {
  ScoreHeads heads;
  const json* list = fields.Get("score_heads");
  if (list == nullptr) return heads;
  if (!list->is_array() || list->size() != boundaries.size()) {
    return fields.Error("score_heads", "needs a list for each boundary");
  }
  for (size_t b = 0; b < boundaries.size(); ++b) {
    const int32_t below = b == 0 ? 0 : boundaries[b - 1];
    SKIM_ASSIGN_OR_RETURN(heads.emplace_back(), ReadHeads(fields, "score_heads", (*list)[b], model,
                                                          boundaries[b], below, boundaries[b]));
  }
  return heads;
}

absl::StatusOr<PruneProfile> ReadProfile(const std::string& name, const json& object,
                                         size_t boundaries, const std::string& path) {
  const std::string where = absl::StrCat(path, ": profiles: ", name);
  if (name.empty() || name.size() > 64) {
    return absl::InvalidArgumentError(absl::StrCat(path, ": profiles: a name is empty or too long"));
  }
  if (!object.is_object()) return absl::InvalidArgumentError(where + " is not an object");
  SKIM_RETURN_IF_ERROR(
      CheckKeys(object, {"keep", "decode", "revival_budget", "score_window", "look_back"}, where));
  const JsonFields fields(object, where);
  PruneProfile profile;
  profile.name = name;
  const json* keep = fields.Get("keep");
  if (keep == nullptr || !keep->is_array() || keep->size() != boundaries) {
    return fields.Error("keep", "needs a share for each boundary");
  }
  float before = 1;
  for (const json& share : *keep) {
    const double value = share.is_number() ? share.get<double>() : -1;
    if (!(value > 0 && static_cast<float>(value) <= before)) {
      return fields.Error("keep", "must be in (0, 1] and not rise");
    }
    before = static_cast<float>(value);
    profile.keep.push_back(before);
  }
  SKIM_ASSIGN_OR_RETURN(const std::string decode, fields.String("decode", "lazy"));
  constexpr std::array kModes = {"static", "lazy", "strict", "phantom", "late"};
  const auto mode = std::ranges::find(kModes, decode);
  if (mode == kModes.end()) {
    return fields.Error("decode", "must be static, lazy, strict, phantom or late");
  }
  profile.decode = static_cast<DecodeMode>(mode - kModes.begin());
  SKIM_ASSIGN_OR_RETURN(const int64_t budget, fields.Int("revival_budget", 8, 0, kMaxBudget));
  profile.revival_budget = static_cast<int32_t>(budget);
  SKIM_ASSIGN_OR_RETURN(const int64_t window, fields.Int("score_window", 1, 1, kMaxWindow));
  profile.window = static_cast<int32_t>(window);
  SKIM_ASSIGN_OR_RETURN(const int64_t look_back, fields.Int("look_back", 0, 0, kMaxBudget));
  if (look_back > 0 && profile.decode != DecodeMode::kLate) {
    return fields.Error("look_back", "needs the decode mode late");
  }
  profile.look_back = static_cast<int32_t>(look_back);
  return profile;
}

absl::StatusOr<LazyConfig> ReadFile(const json& object, const std::string& path,
                                    const ModelConfig& model) {
  SKIM_RETURN_IF_ERROR(CheckKeys(
      object, {"version", "layers", "boundaries", "score_heads", "scouts", "profiles"}, path));
  const JsonFields fields(object, path);
  SKIM_RETURN_IF_ERROR(fields.Int("version", {}, 1, 1).status());
  SKIM_RETURN_IF_ERROR(fields.Int("layers", {}, model.layers, model.layers).status());
  LazyConfig config;
  SKIM_ASSIGN_OR_RETURN(config.boundaries, ReadBoundaries(fields, model.layers, path));
  SKIM_ASSIGN_OR_RETURN(config.score_heads, ReadScoreHeads(fields, model, config.boundaries));
  SKIM_ASSIGN_OR_RETURN(config.scouts, ReadScouts(fields, model, config.boundaries, path));
  config.profiles = ProfilesFor(config.boundaries, config.scouts, model.layers);
  const json* profiles = fields.Get("profiles");
  if (profiles == nullptr) return config;
  if (!profiles->is_object()) return fields.Error("profiles", "is not an object");
  for (const auto& [name, value] : profiles->items()) {
    SKIM_ASSIGN_OR_RETURN(PruneProfile profile,
                          ReadProfile(name, value, config.boundaries.size(), path));
    std::erase_if(config.profiles, [&](const PruneProfile& p) { return p.name == profile.name; });
    config.profiles.push_back(std::move(profile));
  }
  return config;
}

}  // namespace

absl::StatusOr<LazyConfig> LoadLazyConfig(const std::string& model_dir, const ModelConfig& model,
                                          const std::optional<std::vector<int32_t>>& boundaries) {
  LazyConfig config;
  if (boundaries.has_value()) {
    SKIM_RETURN_IF_ERROR(CheckBoundaries(*boundaries, model.layers, "--lazy-boundaries"));
    config.boundaries = *boundaries;
  } else {
    const std::string path = model_dir + "/skim_lazy.json";
    absl::StatusOr<json> object = ReadJsonObject(path, kMaxFileBytes);
    if (object.ok()) return ReadFile(*object, path, model);
    if (!absl::IsNotFound(object.status())) return object.status();
    config.boundaries = DefaultBoundaries(model.layers);
  }
  config.profiles = ProfilesFor(config.boundaries, {}, model.layers);
  return config;
}

}  // namespace skim
