// What a request wants of its prompt: all of it at full depth, or LazyLLM's pruning.
#pragma once

#include <cstdint>
#include <vector>

#include "engine/decode_mode.h"
#include "engine/step_plan.h"

namespace skim {

struct PrefillPolicy {
  // Share of the prompt that goes on above each boundary of the model, (0, 1], not rising. Where
  // it does not fall there is no cut. Empty: exact.
  std::vector<float> keep;
  int32_t min_keep = 64;        // tokens that go on however small the share
  int32_t min_prompt = 0;       // shorter prompts, or uncached rests of them, run exact
  PruneRules rules;             // strict is that of `decode`
  DecodeMode decode = DecodeMode::kLazy;
  int32_t revival_budget = 8;   // tokens revived per cut and step, unless static
  // Late: tokens revived per cut before the first token is drawn, for the prompt's last token.
  int32_t look_back = 0;

  bool lazy() const { return !keep.empty(); }
  bool looks_back() const { return look_back > 0; }
};

}  // namespace skim
