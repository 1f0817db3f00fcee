// One random schedule, from a seed: a small pool, many requests, consumers that cancel,
// stall or never read, faults. Everything the scheduler guarantees is checked after every
// step, and every delivered token is compared with what the fake model says alone.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <random>
#include <vector>

#include "scheduler/scheduler.h"
#include "tests/scheduler/fake_engine.h"
#include "tests/scheduler/null_observer.h"
#include "tests/scheduler/pending_engine.h"

namespace skim {

struct SpeculationCounts {
  int64_t drafted = 0;
  int64_t accepted = 0;
};

// What happened, over all seeds: a simulation that never preempts proves nothing about it.
struct SimulationCounts {
  int64_t steps = 0;
  int64_t rows = 0;
  int64_t requests = 0;
  int64_t refused = 0;
  int64_t preemptions = 0;
  int64_t cached_tokens = 0;
  int64_t outgrown = 0;
  int64_t pruned = 0;  // ended after their first token
  int64_t pruned_preempted = 0;
  int64_t pruned_cached_tokens = 0;
  int64_t predicted = 0;
  int64_t predicted_preempted = 0;
  int64_t looked_back = 0;        // tokens that came back before the first was drawn
  int64_t scouted = 0;            // cuts
  int64_t scouted_preempted = 0;  // of those, of sequences that have been preempted before
  int64_t revived = 0;
  int64_t revived_late = 0;
  int64_t hidden_dropped = 0;
  int64_t slow_readers = 0;
  std::array<SpeculationCounts, kDrafterKinds> drafts;  // of prompts that are not pruned
  SpeculationCounts pruned_drafts;
  int64_t put_off = 0;               // draws of draft passes that were not waited for
  int64_t caught_up = 0;             // rows
  int64_t draft_models_evicted = 0;  // of sequences that ran on
  SpeculationCounts stored_drafts;   // by earlier answers, of all prompts
  std::map<FinishReason, int64_t> finished;
};

class Simulation {
 public:
  Simulation(uint32_t seed, SimulationCounts* counts);
  // Stops at the first failed check.
  void Run();

 private:
  struct Client {
    Request request;
    std::shared_ptr<TokenChannel> channel;
    std::vector<SampledToken> tokens;
    std::vector<SampledToken> prompt_logprobs;
    std::optional<Finish> finish;
    bool stalls = false;  // reads only now and then
    bool never_reads = false;
    bool disturbed = false;  // a fault was injected
    int32_t preemptions = 0;
  };

  int32_t Pick(int32_t low, int32_t high);
  bool Chance(int percent) { return Pick(1, 100) <= percent; }
  Request RandomRequest(SeqId id);
  void Submit();
  void Consume(bool everything);
  void Step();
  void InjectFault(const StepPlan& plan);
  void TellOfPreemptions();

  void CheckPages();
  void CheckPrompts();
  void CheckPlan(const StepPlan& plan);
  void CheckProgress(const StepPlan& plan);
  void CheckFinished(SeqId id, Client& client);
  // What the model generates for this request alone, and why it ends.
  FinishReason Alone(const Request& request, std::vector<TokenId>* out) const;
  // The same for a pruned one: in a scheduler of its own, with room for everything.
  FinishReason AlonePruned(const Request& request, std::vector<TokenId>* out);
  PrefillPolicy RandomPolicy();
  SpeculationPolicy RandomSpeculation(const Request& request);
  // Draft models that give up their pages while their sequence keeps its own.
  void CountEvictions();
  void CheckDraftModel(const Sequence& sequence);
  void CheckSpeculation(const Request& request, const Finish& finish);
  void CheckPruned(const Sequence& sequence);
  void CheckHidden(const Sequence& sequence);
  void CheckPhantoms(const StepPlan& plan, const PlanSequence& entry);
  void CheckWrites(const StepPlan& plan, const PlanSequence& entry);
  FakeModel Model() const;
  TokenId Next(uint64_t seed, std::span<const TokenId> text, std::span<const TokenId> seen) const;

  std::mt19937 random_;
  SimulationCounts* const counts_;
  KvGeometry geometry_;
  SchedulerConfig config_;
  int32_t vocabulary_ = 0;
  std::vector<std::vector<TokenId>> shared_prefixes_;
  int32_t to_submit_ = 0;
  int fault_percent_ = 0;
  bool speculates_ = false;
  // The model's next token depends on so many before it: few, and its text soon repeats.
  size_t memory_ = SIZE_MAX;
  bool follows_drafts_ = false;

  NullObserver observer_;
  std::unique_ptr<Intake> intake_;
  std::unique_ptr<Scheduler> scheduler_;
  std::unique_ptr<FakeEngine> engine_;
  std::unique_ptr<PendingEngine> pending_engine_;  // around it
  std::map<SeqId, Client> clients_;
  std::map<SeqId, int32_t> draft_model_preemptions_;  // so far, of those that hold pages of it
  SeqId next_id_ = 1;
  uint64_t next_group_ = 1;
  int64_t unfinished_ = 0;
  Micros now_ = 1000;
};

}  // namespace skim
