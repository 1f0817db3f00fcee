// Where the goldens and the default model lie. tools/make_golden.py says what they hold.
#pragma once

#include <cstdlib>
#include <string>

namespace skim {

// SKIM_GOLDEN: where they lie on a machine that has no sources.
inline std::string GoldenPath(const std::string& name) {
  if (const char* moved = std::getenv("SKIM_GOLDEN")) return std::string(moved) + "/" + name;
  return std::string(SKIM_SOURCE_DIR) + "/tests/golden/" + name;
}

inline std::string DefaultModelPath() {
  return std::string(SKIM_SOURCE_DIR) + "/models/SmolLM2-135M-Instruct";
}

}  // namespace skim
