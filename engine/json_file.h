// Reading the JSON files of a model directory: bounded, no exceptions, errors that name
// file and field.
#pragma once

#include <cmath>
#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace skim {

// Parses `text`. Refuses duplicate keys, nesting beyond 16 and text that is no UTF-8:
// nothing a model file needs, and each of them has broken a reader before.
absl::StatusOr<nlohmann::json> ParseJson(std::string_view text, const std::string& name);

// NOT_FOUND if there is no such file; at most `max_bytes`. The result is an object.
absl::StatusOr<nlohmann::json> ReadJsonObject(const std::string& path, int64_t max_bytes);

// A view of one JSON object that reports what is wrong with a field by its name.
// Fields that are absent or null count as not given.
class JsonFields {
 public:
  JsonFields(const nlohmann::json& object, std::string name)
      : object_(object), name_(std::move(name)) {}

  bool Has(const char* key) const;
  const nlohmann::json* Get(const char* key) const;  // null if not given
  // `fallback` if not given; INVALID_ARGUMENT if of the wrong type or out of [low, high].
  absl::StatusOr<int64_t> Int(const char* key, std::optional<int64_t> fallback, int64_t low,
                              int64_t high) const;
  absl::StatusOr<double> Number(const char* key, std::optional<double> fallback, double low,
                                double high) const;
  absl::StatusOr<bool> Bool(const char* key, bool fallback) const;
  absl::StatusOr<std::string> String(const char* key, std::optional<std::string> fallback) const;
  absl::Status Error(const char* key, const std::string& what) const;

 private:
  const nlohmann::json& object_;
  std::string name_;
};

}  // namespace skim
