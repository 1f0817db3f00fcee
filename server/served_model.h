// What a loaded model offers to the RPC layer, borrowed from whoever owns the parts.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/clock.h"
#include "engine/engine.h"
#include "scheduler/serving_loop.h"
#include "scheduler/speculation_policy.h"
#include "text/tokenizer.h"

namespace skim {

// Bounds on one request beyond what the model itself sets.
struct RequestLimits {
  int32_t max_output_tokens = 0;  // 0 = what the context leaves
  int32_t max_n = 8;
  int32_t min_lazy_tokens = 1000;  // shorter prompts, or uncached rests of them, are not pruned
  int32_t max_revival_rows = 256;  // of a step
  // That requests may name, and how many tokens they may draft in a round.
  std::vector<DrafterKind> drafters = {DrafterKind::kLookup, DrafterKind::kSelf,
                                       // if there is one:
                                       DrafterKind::kHead, DrafterKind::kDraftModel};
  int32_t max_draft_tokens = 8;  // [1, kMaxDrafts]
  int64_t answer_store_bytes = 0;  // 0: no answers are stored to draft from
};

struct ServedModel {
  std::string name;
  std::string directory;  // of its files; empty = there are none
  const ModelInfo* info = nullptr;
  const Tokenizer* tokenizer = nullptr;
  ServingLoop* loop = nullptr;
  RequestLimits limits;
  bool shares_prefixes = false;  // there is a prefix cache

  // What a request may name: those allowed that there are, and kAuto if there are any.
  std::vector<DrafterKind> drafters() const {
    std::vector<DrafterKind> served;
    for (const DrafterKind kind : limits.drafters) {
      const bool missing = (kind == DrafterKind::kHead && info->draft_head_bytes == 0) ||
                           (kind == DrafterKind::kDraftModel && info->draft_model_bytes == 0);
      if (!missing) served.push_back(kind);
    }
    if (!served.empty()) served.push_back(DrafterKind::kAuto);
    return served;
  }
};

}  // namespace skim
