// Counter-based randomness: a pure function of (seed, position, purpose), so one seed gives
// one text whatever the batch, the chunking, the drafts or a preemption.
#pragma once

#include <cstdint>

namespace skim {

// A draft of a token is drawn from its own distribution with the token's own number: the two
// draws then agree as often as they can, and nothing is drawn to accept or to replace a draft.
enum class DrawPurpose : uint32_t { kToken };

// Finaliser of SplitMix64 (Steele, Lea & Flood 2014): every input bit reaches every output bit.
constexpr uint64_t MixBits(uint64_t z) {
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  return z ^ (z >> 31);
}

constexpr uint64_t RandomBits(uint64_t seed, uint32_t position, DrawPurpose purpose) {
  constexpr uint64_t kGolden = 0x9e3779b97f4a7c15u;
  const uint64_t counter = uint64_t{position} << 32 | static_cast<uint32_t>(purpose);
  return MixBits(MixBits(seed + kGolden) ^ MixBits(counter + kGolden));
}

// In [0, 1), a multiple of 2^-53.
constexpr double UniformDraw(uint64_t seed, uint32_t position, DrawPurpose purpose) {
  return static_cast<double>(RandomBits(seed, position, purpose) >> 11) * 0x1p-53;
}

}  // namespace skim
