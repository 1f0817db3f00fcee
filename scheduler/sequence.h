// The mutable progress of one accepted request. Owned by Scheduler, loop thread only.
#pragma once

#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "base/types.h"
#include "scheduler/fair_share.h"
#include "scheduler/kv_cache.h"
#include "scheduler/lazy_progress.h"
#include "scheduler/request.h"
#include "scheduler/speculation.h"
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
  // Set while the prompt is to be pruned; `computed` then leaps over the prompt once all its
  // stages have run.
  std::unique_ptr<LazyProgress> lazy;
  uint64_t last_step = 0;  // in which it had rows
  std::unique_ptr<Speculation> speculation;  // null: none was asked for
  // While it runs, where its hidden rows for the draft head are kept.
  int32_t feature_place = kNoFeatures;

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
  // Its next row draws a token.
  bool decoding() const { return missing() == 1 && (!lazy || lazy->prompt_done()); }
  // Neither that nor the same row as a look back.
  bool prefilling() const { return !decoding() && !(lazy && lazy->looking_back()); }
  // Drafts that its next step could verify, and what it then holds.
  int32_t wanted_drafts() const { return speculation ? speculation->wanted() : 0; }
  KvExtent VerifyExtent(const KvCache& cache, int32_t drafts) const;
  // Whether those are to be the draft model's.
  bool wants_draft_model() const {
    return wanted_drafts() > 0 && speculation->proposes_draft_model();
  }
  // The rows of its draft passes leave their hidden state behind and go on from there when
  // they are verified. Else verification runs them from the embedding, over their K/V. That of
  // a pruned prompt does: its hidden pages are the prompt's.
  bool keeps_exit_rows(const KvGeometry& geometry) const;
  // Whether `cached` tokens leave too little of a prompt that has not run yet to prune it.
  bool WorthHitting(int32_t cached) const {
    return cached > 0 && report.scheduled == kNever &&
           prompt_tokens() - cached < request.prefill.min_prompt;
  }
  // A hit computes no logits for what it covers.
  bool may_hit() const { return !request.sampling.prompt_logprobs; }
  AnswerOwner owner() const { return {request.tenant, request.cache_salt}; }
  CacheDomain domain(int32_t end_layer = 0) const {
    return {.salt = request.cache_salt,
            .weight_format = request.weight_format,
            .end_layer = end_layer};
  }
};

}  // namespace skim
