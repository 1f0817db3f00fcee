#pragma once

#include <cstdint>

namespace skim {

// What decoding does about the prompt tokens that the prefill has pruned.
enum class DecodeMode : uint8_t {
  kStatic,  // what is cut stays cut
  kLazy,    // each new token's scores revive tokens; it sees all that have K/V
  kStrict,  // the same, and it sees the tokens of this step's choice only (the paper)
};

}  // namespace skim
