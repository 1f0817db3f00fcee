// The real scheduler on the real engine, one step at a time: what a request is told, what each
// cut chose, and the logits behind every token it drew.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <vector>

#include "scheduler/scheduler.h"
#include "tests/engine/harness.h"
#include "tests/scheduler/null_observer.h"

namespace skim {

class ScheduledEngine {
 public:
  struct Client {
    std::vector<TokenId> tokens;
    std::vector<SampledToken> drawn;  // the same, with what was told of them
    std::optional<Finish> finish;
    std::vector<std::vector<CutResult>> cuts;  // of every step that chose, in order
  };

  // Borrows `harness`.
  ScheduledEngine(EngineHarness* harness, SchedulerConfig config);

  // Greedy; logits are found under the returned id.
  SeqId Submit(std::vector<TokenId> prompt, int32_t max_tokens, const PrefillPolicy& prefill = {},
               WeightFormat weight_format = WeightFormat::kBf16);
  // Any request; its id is given here.
  SeqId Submit(Request request);
  // What a draft pass drew is replaced by what this returns of it.
  using ChangeDraft = std::function<TokenId(const PlanSequence& draft, TokenId drawn)>;
  void SetChangeDraft(ChangeDraft change) { change_draft_ = std::move(change); }
  // False when there was nothing to do.
  bool Step();
  void RunToEnd() {
    while (Step()) {
    }
  }

  const Client& client(SeqId id) const { return clients_.at(id).seen; }
  const std::vector<float>& Logits(SeqId id, int32_t position) const {
    return harness_.Logits(id, position);
  }
  const Scheduler& scheduler() const { return *scheduler_; }
  int64_t scout_rows() const { return scout_rows_; }
  int64_t put_off() const { return put_off_; }  // draws that were not waited for
  int64_t replays() const { return replays_; }  // Ops::Replays() of all steps
  // Rows times layers that pruned sequences ran, by (sequence, position, layer). Scouts
  // are not among them: they run ahead of tokens that run the same layers later.
  int64_t most_runs_of_a_token_layer() const { return most_runs_; }
  // How many tokens of a pruned sequence have run this layer since it last began.
  int64_t TokensRun(SeqId id, int32_t layer) const;

 private:
  struct Held {
    Client seen;
    std::shared_ptr<TokenChannel> channel;
  };

  void ForgetPreempted();
  void Count(const StepPlan& plan, const StepResult& result);

  EngineHarness& harness_;
  SchedulerConfig config_;
  NullObserver observer_;
  std::unique_ptr<Intake> intake_;
  std::unique_ptr<Scheduler> scheduler_;
  std::map<SeqId, Held> clients_;
  SeqId next_id_ = 1;
  Micros now_ = 1;
  ChangeDraft change_draft_;
  std::map<std::tuple<SeqId, int32_t, int32_t>, int64_t> runs_;
  std::map<SeqId, int32_t> preemptions_;
  int64_t most_runs_ = 0;
  int64_t scout_rows_ = 0;
  int64_t replays_ = 0;
  int64_t put_off_ = 0;
};

}  // namespace skim
