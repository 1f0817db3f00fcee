#include "tests/server/echo_engine.h"

#include <algorithm>
#include <chrono>
#include <thread>

#include "tests/server/byte_tokenizer.h"

namespace skim {
namespace {

TokenId Echo(const PlanSequence& sequence, std::span<const TokenId> prefix,
             std::span<const TokenId>) {
  const int32_t prompt_tokens = sequence.prompt_tokens;
  const auto generated = static_cast<int32_t>(prefix.size()) - prompt_tokens;
  const int32_t at = generated % (prompt_tokens + 1);
  const TokenId token = at == prompt_tokens ? kEndToken : prefix[at];
  const bool banned = generated < sequence.sampling->min_tokens &&
                      std::ranges::count(sequence.sampling->stop_tokens, token) > 0;
  return banned ? TokenId{'#'} : token;
}

KvGeometry Plain(int32_t total_pages) {
  KvGeometry geometry;
  geometry.page_tokens = 16;
  geometry.total_pages = total_pages;
  geometry.layers = 2;
  geometry.hidden_rows_per_page = 8;
  geometry.feature_places = 64;
  geometry.draft_model = {
      .layers = 1, .units = 1, .context = 4096, .format = WeightFormat::kInt8, .row_layers = 1};
  return geometry;
}

KvGeometry Pruned(int32_t total_pages) {
  KvGeometry geometry = Plain(total_pages);
  geometry.segment_units = {1, 1};
  geometry.boundaries = {1};
  geometry.phantom_cuts = {1};
  return geometry;
}

}  // namespace

EchoEngine::EchoEngine(int32_t total_pages, bool boundary)
    : fake_(boundary ? Pruned(total_pages) : Plain(total_pages), Echo) {}

absl::Status EchoEngine::Execute(const StepPlan& plan, StepResult* result) {
  {
    std::unique_lock lock(mutex_);
    may_run_.wait(lock, [&] { return steps_left_ != 0; });
    if (steps_left_ > 0) --steps_left_;
  }
  if (step_delay_us_ > 0) {
    std::this_thread::sleep_for(std::chrono::microseconds(step_delay_us_));
  }
  if (broken_) return absl::InternalError("the device is broken");
  const absl::Status status = fake_.Execute(plan, result);
  for (size_t i = 0; status.ok() && i < plan.sequences.size(); ++i) {
    const int32_t top = plan.sequences[i].sampling->top_logprobs;
    auto fill = [&](SampledToken& token) {
      token.logprob = Logprob(token.token);
      for (TokenId other = 0; other < top; ++other) token.top.push_back({other, Logprob(other)});
    };
    std::ranges::for_each(result->sequences[i].sampled, fill);
    std::ranges::for_each(result->sequences[i].prompt_logprobs, fill);
  }
  return status;
}

void EchoEngine::Pause() { PauseAfter(0); }

void EchoEngine::Resume() { PauseAfter(-1); }

void EchoEngine::PauseAfter(int steps) {
  std::lock_guard lock(mutex_);
  steps_left_ = steps;
  may_run_.notify_all();
}

}  // namespace skim
