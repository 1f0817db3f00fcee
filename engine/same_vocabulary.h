// Whether two models mean the same text by the same tokens.
#pragma once

#include <string>

#include "absl/status/status.h"

namespace skim {

// By the tokenizer.json of both directories: INVALID_ARGUMENT, naming one that differs, unless
// every token has the same number in both. How text is cut into tokens may differ. NOT_FOUND and
// INVALID_ARGUMENT name a file that is missing or broken.
absl::Status CheckSameVocabulary(const std::string& model_dir, const std::string& other_dir);

}  // namespace skim
