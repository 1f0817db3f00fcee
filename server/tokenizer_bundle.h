// The files a gateway needs to tokenise for a model, as one zip archive (stored, not
// compressed: they are sent once).
#pragma once

#include <string>

#include "absl/status/statusor.h"

namespace skim {

struct TokenizerBundle {
  std::string zip;
  std::string sha256;  // of `zip`, lower-case hex
};

// tokenizer.json and what is there of tokenizer_config.json, special_tokens_map.json,
// added_tokens.json, config.json, generation_config.json and chat_template.*. NOT_FOUND
// without a tokenizer.json.
absl::StatusOr<TokenizerBundle> BundleTokenizer(const std::string& directory);

}  // namespace skim
