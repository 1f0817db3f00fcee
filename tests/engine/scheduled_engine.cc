#include "tests/engine/scheduled_engine.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <utility>

namespace skim {

ScheduledEngine::ScheduledEngine(EngineHarness* harness, SchedulerConfig config)
    : harness_(*harness), config_(config) {
  config_.max_context = harness->config().max_positions;
  config_.channel_tokens = 4096;
  intake_ = std::make_unique<Intake>(config_.max_waiting, config_.max_waiting_tokens);
  scheduler_ = std::make_unique<Scheduler>(config_, harness->executor().kv_geometry(),
                                           intake_.get(), &observer_);
}

SeqId ScheduledEngine::Submit(std::vector<TokenId> prompt, int32_t max_tokens,
                              const PrefillPolicy& prefill, WeightFormat weight_format) {
  Request request;
  request.prompt = std::move(prompt);
  request.sampling.temperature = 0;
  request.sampling.max_tokens = max_tokens;
  request.prefill = prefill;
  request.weight_format = weight_format;
  return Submit(std::move(request));
}

SeqId ScheduledEngine::Submit(Request request) {
  const SeqId id = request.id = next_id_++;
  Held& held = clients_[id];
  held.channel = std::make_shared<TokenChannel>(config_.channel_tokens, std::function<void()>());
  EXPECT_TRUE(intake_->Submit({std::move(request), held.channel, now_}).ok());
  return id;
}

bool ScheduledEngine::Step() {
  const StepPlan& plan = scheduler_->BeginStep(++now_);
  const bool worked = !plan.empty();
  if (worked) {
    StepResult result;
    const absl::Status status = harness_.executor().Execute(plan, &result);
    EXPECT_TRUE(status.ok()) << status << "\n" << ToString(plan);
    for (size_t i = 0; i < plan.sequences.size() && status.ok(); ++i) {
      if (plan.sequences[i].draft && plan.sequences[i].draws > 0 && change_draft_) {
        TokenId& drawn = result.sequences[i].sampled.at(0).token;
        drawn = change_draft_(plan.sequences[i], drawn);
      }
      if (!result.sequences[i].cuts.empty()) {
        clients_.at(plan.sequences[i].id).seen.cuts.push_back(result.sequences[i].cuts);
      }
    }
    ForgetPreempted();
    replays_ += result.replays;
    for (const PlanSequence& sequence : plan.sequences) {
      if (result.pending) put_off_ += sequence.draws;
    }
    Count(plan, result);
    scheduler_->Commit(status, std::move(result), ++now_);
  }
  for (auto& [id, held] : clients_) {
    TokenChannel::Drained got = held.channel->Drain();
    for (SampledToken& token : got.tokens) {
      held.seen.tokens.push_back(token.token);
      held.seen.drawn.push_back(std::move(token));
    }
    if (got.finish.has_value()) held.seen.finish = std::move(got.finish);
  }
  return worked;
}

void ScheduledEngine::ForgetPreempted() {
  for (const auto& sequence : scheduler_->running()) {
    const SeqId id = sequence->request.id;
    const int32_t now = sequence->report.preemptions;
    if (std::exchange(preemptions_[id], now) == now) continue;
    std::erase_if(runs_, [id](const auto& run) { return std::get<0>(run.first) == id; });
  }
}

int64_t ScheduledEngine::TokensRun(SeqId id, int32_t layer) const {
  return std::ranges::count_if(runs_, [&](const auto& run) {
    return std::get<0>(run.first) == id && std::get<2>(run.first) == layer;
  });
}

void ScheduledEngine::Count(const StepPlan& plan, const StepResult& result) {
  const auto layers = plan.leave.empty() ? 0 : *std::ranges::max_element(plan.leave);
  for (size_t i = 0; i < plan.sequences.size(); ++i) {
    const PlanSequence& sequence = plan.sequences[i];
    if (sequence.cut_segment == PlanSequence::kAllDense) continue;
    if (sequence.scouts()) {
      scout_rows_ += sequence.row_count;
      continue;
    }
    const auto run = [&](int32_t position, int32_t enter, int32_t leave) {
      for (int32_t layer = enter; layer < leave; ++layer) {
        most_runs_ = std::max(most_runs_, ++runs_[{sequence.id, position, layer}]);
      }
    };
    for (int32_t row = sequence.row_begin; row < sequence.row_begin + sequence.row_count; ++row) {
      const int32_t position = plan.positions[row];
      if (position == kReservedPosition) continue;
      run(position, plan.enter[row], plan.leave[row]);
    }
    const std::vector<CutResult>& cuts = result.sequences[i].cuts;
    for (size_t c = 0; c < cuts.size(); ++c) {
      if (sequence.cuts[c].late) continue;  // they run as rows of the next step
      const int32_t stop = c + 1 < cuts.size() ? sequence.cuts[c + 1].layer : layers;
      for (const int32_t position : cuts[c].revived) run(position, sequence.cuts[c].layer, stop);
    }
  }
}

}  // namespace skim
