// A model with random weights, on the spot, in a published shape.
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/status.h"

namespace skim {

struct RandomShape {
  int32_t layers, hidden, intermediate, heads, kv_heads, head_dim, vocabulary, positions;
};
// Llama 3.2 1B; of its 131072 positions those that a check needs.
inline constexpr RandomShape kLlama1b = {16, 2048, 8192, 32, 8, 64, 128256, 4096};
inline constexpr RandomShape kTinyShape = {2, 64, 96, 4, 2, 16, 272, 256};

// Writes config.json and model.safetensors into `directory`.
absl::Status WriteRandomModel(const RandomShape& shape, const std::string& directory);

}  // namespace skim
