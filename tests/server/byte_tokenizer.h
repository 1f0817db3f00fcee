// A tokenizer whose ids can be read: id = byte, so every character beyond ASCII is split over
// tokens. Two merges ("ST", "OP") make tokens of more than one letter.
#pragma once

#include <memory>

#include "text/tokenizer.h"

namespace skim {

inline constexpr TokenId kStToken = 256;
inline constexpr TokenId kOpToken = 257;
inline constexpr TokenId kEndToken = 258;    // "<|end|>", special
inline constexpr TokenId kStartToken = 259;  // "<|start|>", special
inline constexpr int32_t kByteVocabulary = 260;

// Its chat template writes <|start|>role:content for each message, then <|start|>assistant:
std::unique_ptr<Tokenizer> MakeByteTokenizer();

}  // namespace skim
