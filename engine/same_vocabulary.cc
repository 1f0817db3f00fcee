#include "engine/same_vocabulary.h"

#include <cstdint>
#include <map>
#include <utility>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "engine/json_file.h"

namespace skim {
namespace {

constexpr int64_t kMostBytes = int64_t{256} << 20;

using Tokens = std::map<int64_t, std::string>;

absl::Status Broken(const std::string& file) {
  return absl::InvalidArgumentError(absl::StrCat(file, ": model.vocab is no vocabulary"));
}

// model.vocab is an object of numbers by token, or an array of [token, score]; added_tokens come
// with their numbers.
absl::StatusOr<Tokens> ReadTokens(const std::string& file) {
  SKIM_ASSIGN_OR_RETURN(const nlohmann::json json, ReadJsonObject(file, kMostBytes));
  const auto model = json.find("model");
  if (model == json.end() || !model->is_object()) return Broken(file);
  const auto vocab = model->find("vocab");
  if (vocab == model->end()) return Broken(file);
  Tokens tokens;
  if (vocab->is_object()) {
    for (const auto& [token, id] : vocab->items()) {
      if (!id.is_number_integer()) return Broken(file);
      tokens[id.get<int64_t>()] = token;
    }
  } else if (vocab->is_array()) {
    for (const nlohmann::json& entry : *vocab) {
      if (!entry.is_array() || entry.empty() || !entry[0].is_string()) return Broken(file);
      const auto id = static_cast<int64_t>(tokens.size());
      tokens[id] = entry[0].get<std::string>();
    }
  } else {
    return Broken(file);
  }
  const auto added = json.find("added_tokens");
  if (added == json.end() || !added->is_array()) return tokens;
  for (const nlohmann::json& entry : *added) {
    const bool valid = entry.is_object() && entry.contains("id") && entry.contains("content") &&
                       entry["id"].is_number_integer() && entry["content"].is_string();
    if (!valid) return absl::InvalidArgumentError(absl::StrCat(file, ": added_tokens is no list"));
    tokens[entry["id"].get<int64_t>()] = entry["content"].get<std::string>();
  }
  return tokens;
}

}  // namespace

absl::Status CheckSameVocabulary(const std::string& model_dir, const std::string& other_dir) {
  SKIM_ASSIGN_OR_RETURN(const Tokens tokens, ReadTokens(model_dir + "/tokenizer.json"));
  SKIM_ASSIGN_OR_RETURN(const Tokens others, ReadTokens(other_dir + "/tokenizer.json"));
  for (const auto& [mine, theirs] : {std::pair(&tokens, &others), std::pair(&others, &tokens)}) {
    for (const auto& [id, token] : *mine) {
      const auto found = theirs->find(id);
      if (found != theirs->end() && found->second == token) continue;
      return absl::InvalidArgumentError(
          absl::StrCat("its vocabulary is another: token ", id, " is not the same"));
    }
  }
  return absl::OkStatus();
}

}  // namespace skim
