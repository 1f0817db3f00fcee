// Where the goldens and the default model lie. tools/make_golden.py says what they hold.
#pragma once

#include <string>

namespace skim {

inline std::string GoldenPath(const std::string& name) {
  return std::string(SKIM_SOURCE_DIR) + "/tests/golden/" + name;
}

inline std::string DefaultModelPath() {
  return std::string(SKIM_SOURCE_DIR) + "/models/SmolLM2-135M-Instruct";
}

}  // namespace skim
