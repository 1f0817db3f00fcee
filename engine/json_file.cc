#include "engine/json_file.h"

#include <fstream>
#include <set>
#include <sstream>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"

namespace skim {
namespace {

using nlohmann::json;

constexpr int kMaxDepth = 16;

}  // namespace

absl::StatusOr<json> ParseJson(std::string_view text, const std::string& name) {
  std::string problem;
  std::vector<std::set<std::string>> keys;  // of every open object
  auto watch = [&](int depth, json::parse_event_t event, json& parsed) {
    if (depth > kMaxDepth && problem.empty()) problem = "is nested too deeply";
    if (event == json::parse_event_t::object_start) {
      keys.emplace_back();
    } else if (event == json::parse_event_t::object_end) {
      keys.pop_back();
    } else if (event == json::parse_event_t::key) {
      if (!keys.back().insert(parsed.get_ref<const std::string&>()).second && problem.empty()) {
        problem = absl::StrCat("has the key \"", parsed.get<std::string>(), "\" twice");
      }
    }
    return problem.empty();
  };
  json value = json::parse(text, watch, /*allow_exceptions=*/false);
  if (!problem.empty()) return absl::InvalidArgumentError(absl::StrCat(name, " ", problem));
  if (value.is_discarded()) return absl::InvalidArgumentError(absl::StrCat(name, " is not JSON"));
  return value;
}

absl::StatusOr<json> ReadJsonObject(const std::string& path, int64_t max_bytes) {
  std::ifstream file(path, std::ios::binary);
  if (!file) return absl::NotFoundError(absl::StrCat("cannot open ", path));
  std::string text(static_cast<size_t>(max_bytes) + 1, '\0');
  file.read(text.data(), static_cast<std::streamsize>(text.size()));
  if (file.bad()) return absl::DataLossError(absl::StrCat("cannot read ", path));
  text.resize(static_cast<size_t>(file.gcount()));
  if (static_cast<int64_t>(text.size()) > max_bytes) {
    return absl::InvalidArgumentError(absl::StrCat(path, " is larger than ", max_bytes, " bytes"));
  }
  SKIM_ASSIGN_OR_RETURN(json value, ParseJson(text, path));
  if (!value.is_object()) {
    return absl::InvalidArgumentError(absl::StrCat(path, " is not a JSON object"));
  }
  return value;
}

const json* JsonFields::Get(const char* key) const {
  auto it = object_.find(key);
  return it == object_.end() || it->is_null() ? nullptr : &*it;
}

bool JsonFields::Has(const char* key) const { return Get(key) != nullptr; }

absl::Status JsonFields::Error(const char* key, const std::string& what) const {
  return absl::InvalidArgumentError(absl::StrCat(name_, ": ", key, " ", what));
}

absl::StatusOr<int64_t> JsonFields::Int(const char* key, std::optional<int64_t> fallback,
                                        int64_t low, int64_t high) const {
  const json* value = Get(key);
  if (!value && fallback) return *fallback;
  if (!value) return Error(key, "is missing");
  if (!value->is_number_integer()) return Error(key, "is not an integer");
  const bool too_big = value->is_number_unsigned() && value->get<uint64_t>() > uint64_t{INT64_MAX};
  const int64_t number = too_big ? INT64_MAX : value->get<int64_t>();
  if (too_big || number < low || number > high) {
    return Error(key, absl::StrCat("must be in [", low, ", ", high, "]"));
  }
  return number;
}

absl::StatusOr<double> JsonFields::Number(const char* key, std::optional<double> fallback,
                                          double low, double high) const {
  const json* value = Get(key);
  if (!value && fallback) return *fallback;
  if (!value) return Error(key, "is missing");
  if (!value->is_number()) return Error(key, "is not a number");
  const double number = value->get<double>();
  if (!(number >= low && number <= high)) {  // also catches NaN
    return Error(key, absl::StrCat("must be in [", low, ", ", high, "]"));
  }
  return number;
}

absl::StatusOr<bool> JsonFields::Bool(const char* key, bool fallback) const {
  const json* value = Get(key);
  if (!value) return fallback;
  if (!value->is_boolean()) return Error(key, "is not true or false");
  return value->get<bool>();
}

absl::StatusOr<std::string> JsonFields::String(const char* key,
                                               std::optional<std::string> fallback) const {
  const json* value = Get(key);
  if (!value && fallback) return *fallback;
  if (!value) return Error(key, "is missing");
  if (!value->is_string()) return Error(key, "is not a string");
  return value->get<std::string>();
}

}  // namespace skim
