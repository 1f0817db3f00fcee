// Who runs in the next step, and with which pages: a pure function of the state.
//
// Order: priority (higher first), then tokens served to the tenant (fewer first), then
// arrival. One budget of token-layers (a row costs the layers it runs) is handed out in this
// order,
//   1. to running sequences that miss one token, so that no prefill delays a decode; then to
//      pruned ones, which also reserve rows for tokens to be revived and take turns where
//      those are short,
//   2. to the drafts of those, as far as they take no page that a known token waits for,
//   3. to running sequences that miss more (chunked prefill, resumption),
//   4. if nobody had to be preempted, to waiting ones.
//   5. to draft models that have to run what is known before they can draft, as far as they take no
//      page that anybody waits for.
// A running sequence without room for its rows takes the pages of draft models, last first, then
// the hidden rows of pruned sequences (they revive nothing from then on), then the pages of paused
// sequences, then of
// those behind it in the order, last first (they are recomputed later). If even that does
// not suffice, nobody is preempted and it sits this step out.
//
// A waiting sequence is admitted only if all its known tokens fit beside what the running
// ones still miss. So a preemption always follows newly drawn tokens, and two sequences
// cannot push each other out without progress. Admission keeps the order strictly: who
// does not fit holds back those behind, else a stream of small requests could starve a
// large one. Draft models give their pages up for it, but only paused sequences are preempted: a
// reader that sleeps must not hold up others. Those waiting for a group's leader, and paused ones,
// are passed over.
//
// Forward progress: if all this leaves nothing to run though somebody could, the first of
// those that found no room is named to fail.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "scheduler/kv_cache.h"
#include "scheduler/sequence.h"

namespace skim {

struct PolicyLimits {
  int32_t max_rows_per_step = 0;  // budget, in rows through all layers; > 0
  int32_t max_rows = 0;           // rows of any length, >= max_rows_per_step
  int32_t max_revival_rows = 0;   // reserved ones, beside those
  int32_t max_running = 0;        // > 0
  int32_t layers = 1;
  int32_t draft_model_row_layers = 1;  // what a row of the draft model is charged
  // Of prompts, in a step in which somebody decodes; token-layers. If nobody's part can
  // be that small (all rows that score run together), the step takes prompts as if none decoded.
  int64_t prefill_budget = INT64_MAX;
};

struct Decision {
  struct Slice {
    Sequence* sequence;
    int32_t rows;     // of known tokens
    int32_t drafts;   // to be verified behind them, at most
    int32_t catch_up;  // that the draft model runs beside them, of those it has not
    KvExtent extent;  // what the sequence then holds
  };
  struct Admission {
    Sequence* sequence;
    std::vector<PrefixIndex::NodeId> hits;
    bool exact = false;  // the hits leave too little of its prompt to be worth pruning
  };
  // To be applied in this order; the slices' pages then fit.
  std::vector<Sequence*> draft_models_dropped;
  std::vector<Sequence*> hidden_dropped;
  std::vector<Sequence*> preempted;
  std::vector<Admission> admitted;
  std::vector<Slice> slices;
  int64_t prefill_token_layers = 0;  // of those slices, not decoding; and of catch_up
  Sequence* failed = nullptr;  // nothing else can be done for it: RESOURCE_EXHAUSTED
};

// Changes nothing behind its arguments. `served` is indexed by Sequence::tenant.
Decision Decide(const PolicyLimits& limits, const KvCache& cache,
                std::span<Sequence* const> running, std::span<Sequence* const> waiting,
                std::span<const int64_t> served);

}  // namespace skim
