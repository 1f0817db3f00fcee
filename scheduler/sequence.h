// The mutable progress of one accepted request. Owned by Scheduler, loop thread only.
#pragma once

#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "base/types.h"
#include "scheduler/fair_share.h"
#include "scheduler/kv_cache.h"
#include "scheduler/request.h"
#include "scheduler/token_channel.h"

namespace skim {

struct Sequence {
  Request request;
  std::shared_ptr<TokenChannel> channel;
  FairShare::Tenant tenant = 0;
  uint64_t arrival = 0;  // order of acceptance

  // The one rule of scheduling: tokens[0, computed) have their KV, the others need it, and
  // computing the last known token yields the next. Prefill, decode, cache hits and resuming
  // after preemption differ only in these two numbers.
  std::vector<TokenId> tokens;
  int32_t computed = 0;
  KvHoldings kv;

  bool ended = false;            // the channel is closed
  bool held = false;             // waits for the prefill of its group's leader
  Micros paused_since = kNever;  // the channel has had no room since; kNever: it has
  int32_t charged_tokens = 0;    // billed to the tenant; recomputing is not billed again

  std::vector<SampledToken> prompt_logprobs;  // delivered with the first token
  int32_t scored_tokens = 1;  // prompt tokens with a score; the first one never gets one
  Micros last_token = kNever;
  Finish report;

  int32_t total() const { return static_cast<int32_t>(tokens.size()); }
  int32_t prompt_tokens() const { return static_cast<int32_t>(request.prompt.size()); }
  int32_t missing() const { return total() - computed; }
  bool paused() const { return paused_since != kNever; }
  bool schedulable() const { return !paused() && !held; }
  bool scoring() const {
    return request.sampling.prompt_logprobs && scored_tokens < prompt_tokens();
  }
  // A hit computes no logits for what it covers.
  bool may_hit() const { return !request.sampling.prompt_logprobs; }
  CacheDomain domain() const {
    return {.salt = request.cache_salt, .weight_format = request.weight_format};
  }
};

}  // namespace skim
