// One figure of a benchmark, as one line of JSON: what docs/benchmarks.md says.
#pragma once

#include <nlohmann/json.hpp>
#include <optional>
#include <string>

namespace skim {

inline nlohmann::ordered_json Figure(const std::string& suite, const std::string& name,
                                     double value, const std::string& unit,
                                     nlohmann::ordered_json params,
                                     std::optional<double> roof_share = std::nullopt) {
  nlohmann::ordered_json line = {
      {"suite", suite}, {"name", name}, {"value", value}, {"unit", unit}};
  if (roof_share) line["roof_share"] = *roof_share;
  line["params"] = std::move(params);
  return line;
}

}  // namespace skim
