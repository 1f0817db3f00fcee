// Tables of the rotary position embedding (Su et al. 2021): cos and sin of
// position * theta^(-2i/d), with the frequency scalings of Llama.
#pragma once

#include <vector>

#include "engine/model_config.h"

namespace skim {

// [rotary_dim / 2] radians per position.
std::vector<double> RopeFrequencies(const ModelConfig& config);

struct RopeTables {  // each [positions, rotary_dim / 2]
  std::vector<float> cos;
  std::vector<float> sin;
};
RopeTables MakeRopeTables(const ModelConfig& config, int32_t positions);

}  // namespace skim
