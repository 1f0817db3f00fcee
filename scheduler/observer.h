// What the serving loop reports about itself. Called on the loop thread; implementations
// must not block and must not call back into the loop.
#pragma once

#include <array>
#include <cstdint>

#include "base/types.h"
#include "scheduler/request.h"

namespace skim {

struct StepStats {
  Micros duration = 0;
  int32_t rows = 0;  // the sum of the five below
  int32_t prefill_rows = 0;
  int32_t decode_rows = 0;
  int32_t draft_rows = 0;                                   // of a draft pass, which has no others
  int32_t verify_rows = 0;                                  // of drafts
  int32_t catch_up_rows = 0;  // of a draft model, from which no draft is drawn
  // Of the model: sums to rows, without those of the draft head and of the draft model.
  std::array<int32_t, kWeightFormats> rows_by_format = {};
  int64_t replays = 0;            // of what the backend kept of earlier steps
  int32_t preempted = 0;          // sequences preempted by this step's plan
  int64_t prefix_queries = 0;     // prompt tokens looked up in the prefix cache
  int64_t prefix_hits = 0;        // of those, found
  int64_t answer_lookups = 0;     // in stored answers, one a sequence
  int64_t answer_hits = 0;        // of those, found something
};

struct LoopState {
  int32_t running = 0;
  int32_t waiting = 0;
  int64_t waiting_tokens = 0;
  int32_t kv_pages_total = 0;
  int32_t kv_pages_owned = 0;     // held by sequences
  int32_t kv_pages_cached = 0;    // reusable content, evictable
  int64_t answer_bytes = 0;       // of memory that stored answers take
  int32_t answer_owners = 0;      // whose they are
};

class ServingObserver {
 public:
  virtual ~ServingObserver() = default;
  virtual void OnStep(const StepStats& stats) = 0;
  virtual void OnState(const LoopState& state) = 0;  // after every step and every admission
  virtual void OnFirstToken(Micros time_to_first_token, PrefillMode mode) = 0;
  // What a sequence's step yields after its first token: one, or those that speculation accepted,
  // which all come at once.
  virtual void OnTokens(int32_t tokens, Micros since_last) = 0;
  virtual void OnFinish(const Finish& finish) = 0;
};

}  // namespace skim
