#pragma once

#include <cstdint>

namespace skim {

// What decoding does about the prompt tokens that the prefill has pruned.
enum class DecodeMode : uint8_t {
  kStatic,   // what is cut stays cut
  kLazy,     // each new token's scores revive tokens; it sees all that have K/V
  kStrict,   // the same, and it sees the tokens of this step's choice only (the paper)
  kPhantom,  // what is cut stays cut, but is seen through predicted K/V
  kLate,     // the same, and what a new token's scores find is computed beside the next one
};

// Whether each new token's scores may revive others.
constexpr bool Revives(DecodeMode mode) {
  return mode == DecodeMode::kLazy || mode == DecodeMode::kStrict || mode == DecodeMode::kLate;
}

// Whether what was cut is seen through predicted K/V.
constexpr bool SeesPhantoms(DecodeMode mode) {
  return mode == DecodeMode::kPhantom || mode == DecodeMode::kLate;
}

}  // namespace skim
