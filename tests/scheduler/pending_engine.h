// An engine that puts off what may be put off: draft passes yield numbers, later plans name them,
// and what they stand for is told with the next plan that waits. What is under it sees no number.
#pragma once

#include <deque>
#include <functional>
#include <utility>
#include <vector>

#include "engine/step_executor.h"

namespace skim {

class PendingEngine : public StepExecutor {
 public:
  // `puts_off` is asked for every plan that may be.
  PendingEngine(StepExecutor* engine, std::function<bool()> puts_off)
      : engine_(*engine), puts_off_(std::move(puts_off)) {}

  absl::Status Execute(const StepPlan& plan, StepResult* result) override {
    StepPlan known = plan;
    std::deque<std::vector<TokenId>> drafts;
    for (TokenId& token : known.tokens) token = Known(token);
    for (PlanSequence& sequence : known.sequences) {
      std::vector<TokenId>& list = drafts.emplace_back();
      for (const TokenId token : sequence.drafts) list.push_back(Known(token));
      sequence.drafts = list;
    }
    if (absl::Status status = engine_.Execute(known, result); !status.ok()) return status;
    result->pending = plan.put_off && puts_off_();
    if (!result->pending) {
      result->settled = std::exchange(drawn_, {});
      return absl::OkStatus();
    }
    for (SequenceResult& sequence : result->sequences) {
      for (SampledToken& token : sequence.sampled) {
        drawn_.push_back(token);
        token = {};
        token.token = PendingToken(static_cast<int32_t>(drawn_.size()) - 1);
        ++put_off_;
      }
    }
    return absl::OkStatus();
  }

  const KvGeometry& kv_geometry() const override { return engine_.kv_geometry(); }
  int64_t put_off() const { return put_off_; }  // draws

 private:
  // Where nothing could be drawn, any token runs in its stead.
  TokenId Known(TokenId token) const {
    if (!IsPending(token)) return token;
    const TokenId drawn = drawn_.at(static_cast<size_t>(PendingDraw(token))).token;
    return drawn < 0 ? 0 : drawn;
  }

  StepExecutor& engine_;
  const std::function<bool()> puts_off_;
  std::vector<SampledToken> drawn_;
  int64_t put_off_ = 0;
};

}  // namespace skim
