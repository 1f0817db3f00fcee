// Files of prompts, an object a line: {"prompt": "..."}. Other fields are of no concern here.
#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace skim {

// At least one. NOT_FOUND and INVALID_ARGUMENT name the file, and the line, from 1.
absl::StatusOr<std::vector<std::string>> ReadPrompts(const std::string& path);

}  // namespace skim
