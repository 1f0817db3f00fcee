// The state of all accepted requests and the steps over it: BeginStep takes arrivals, reaps,
// decides and books pages; the caller executes the plan; Commit books the outcome. Knows no
// clock (time is an argument), so the same calls give the same plans. Loop thread only.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <unordered_map>
#include <vector>

#include "absl/status/status.h"
#include "base/types.h"
#include "engine/step_plan.h"
#include "scheduler/answer_store.h"
#include "scheduler/auto_speculation.h"
#include "scheduler/fair_share.h"
#include "scheduler/intake.h"
#include "scheduler/kv_cache.h"
#include "scheduler/observer.h"
#include "scheduler/policy.h"
#include "scheduler/prefill_pace.h"
#include "scheduler/scheduler_config.h"
#include "scheduler/sequence.h"

namespace skim {

class Scheduler {
 public:
  // Borrows `intake` and `observer`.
  Scheduler(const SchedulerConfig& config, const KvGeometry& geometry, Intake* intake,
            ServingObserver* observer);

  // Ends what is cancelled, overdue or not being read, then plans and books the next step.
  // The plan may be empty; it stays valid until Commit or the next BeginStep. A plan that is
  // not empty must be followed by exactly one Commit. Where sequences speculate, a step that
  // has been booked is preceded by its draft passes: each is a plan of its own, of one row per
  // drafting sequence.
  const StepPlan& BeginStep(Micros now);
  // `executed` not OK: a device fault, every sequence of the step ends with INTERNAL.
  void Commit(const absl::Status& executed, StepResult result, Micros now);

  // Ends everything, arrivals included.
  void EndAll(const absl::Status& reason, Micros now);

  // When a BeginStep without new arrivals could next do something: the nearest deadline.
  Micros NextDeadline() const;
  LoopState State() const;
  // Of the step begun last; `duration` is left to the caller.
  const StepStats& stats() const { return stats_; }
  // As those of the prefix index.
  void RecordPrefixEvents() { cache_.RecordEvents(); }
  std::vector<PrefixEvent> TakePrefixEvents() { return cache_.TakeEvents(); }
  // For inspection.
  const KvCache& cache() const { return cache_; }
  const std::vector<std::unique_ptr<Sequence>>& running() const { return running_; }
  const std::vector<std::unique_ptr<Sequence>>& waiting() const { return waiting_; }

 private:
  using Owned = std::vector<std::unique_ptr<Sequence>>;
  // What the draws of a step come to.
  struct Run {
    int32_t tokens = 0;    // that many of the draws are output
    int32_t accepted = 0;  // of the drafts, are output
    bool finite = true;    // false: ended before a draw that could not be made
    std::optional<FinishReason> end;
  };
  struct Group {
    uint64_t leader = 0;  // arrival number
    int32_t members = 0;
    bool computed = false;  // a member's prompt has been
  };

  void TakeArrivals();
  void Reap(Micros now);
  void ReapOne(Sequence& sequence, Micros now);
  // Sets how many drafts each sequence would like to have verified.
  void Propose();
  // The same for those that leave it to us.
  void ChooseDrafts();
  void Apply(Decision decision, Micros now);
  void Admit(const Decision::Admission& admission, Micros now);
  void Preempt(Sequence& sequence);
  // Fills plan_ with the draft pass that the booked step waits for, if any; with that step.
  void PlanDrafts();
  void PlanStep();
  void AddToPlan(Sequence& sequence, int32_t rows);
  void AddDraftRow(Sequence& sequence);
  // Of the draft model: what it has not run of the known tokens and the drafts before `end`.
  void AddDraftModelRows(Sequence& sequence, int32_t end, int32_t draws);
  PlanSequence Entry(const Sequence& sequence) const;
  void AddEntry(PlanSequence entry, Sequence& sequence, int32_t rows);
  void DropHidden(Sequence& sequence);
  void ReleaseUselessHidden(Sequence& sequence);
  // Books what the rows of a pruned sequence have done.
  absl::Status CommitPruned(Sequence& sequence, int32_t rows, const SequenceResult& result);
  int32_t Served(const Sequence& sequence) const;
  void CommitOne(Sequence& sequence, const PlanSequence& planned, int32_t rows,
                 SequenceResult& result, Micros now);
  Run OutputOf(const Sequence& sequence, std::span<const TokenId> drafts,
               std::span<const SampledToken> draws) const;
  void EndRound(Sequence& sequence, const Run& run);
  void SettleDrafts(Sequence& sequence, std::span<const SampledToken> drawn);
  void CommitDraft(Sequence& sequence, const PlanSequence& planned, const SequenceResult& result);
  void Deliver(Sequence& sequence, std::span<SampledToken> run, Micros now);
  void End(Sequence& sequence, FinishReason reason, absl::Status status, Micros now);
  // A place for the hidden rows that its draft head needs, if it has one and a place is free.
  void TakeFeaturePlace(Sequence& sequence);
  void ReturnFeaturePlace(Sequence& sequence);
  void LeaveGroup(const Sequence& sequence);
  bool Held(const Sequence& sequence) const;
  void Sweep();  // destroys what has ended

  const SchedulerConfig config_;
  const PolicyLimits limits_;
  PrefillPace pace_;
  const KvGeometry geometry_;
  Intake* const intake_;
  ServingObserver* const observer_;

  KvCache cache_;
  AnswerStore answers_;
  FairShare fair_share_;
  Owned running_;
  Owned waiting_;
  std::unordered_map<uint64_t, Group> groups_;
  std::vector<int32_t> free_feature_places_;
  uint64_t arrivals_ = 0;
  uint64_t steps_ = 0;

  std::vector<Decision::Slice> slices_;  // booked and not yet planned
  StepPlan plan_;
  // Parallel to plan_.sequences:
  std::vector<Sequence*> planned_;
  std::vector<int32_t> planned_rows_;  // without reserved ones
  StepStats stats_;
  int64_t prefill_token_layers_ = 0;  // of the round at hand
  Micros step_begin_ = 0;
  AutoSpeculation auto_speculation_;
};

}  // namespace skim
