#include "scheduler/scheduler.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/status_macros.h"

namespace skim {
namespace {

using Owned = std::vector<std::unique_ptr<Sequence>>;

void Move(const Sequence* sequence, Owned* from, Owned* to) {
  const auto found =
      std::ranges::find_if(*from, [&](const auto& owned) { return owned.get() == sequence; });
  SKIM_CHECK(found != from->end());
  to->push_back(std::move(*found));
  from->erase(found);
}

std::vector<Sequence*> Borrow(const Owned& owned) {
  std::vector<Sequence*> out;
  out.reserve(owned.size());
  for (const auto& sequence : owned) out.push_back(sequence.get());
  return out;
}

// Decides for a new sequence whether its prompt is to be pruned.
void PrepareLazy(const KvGeometry& geometry, Sequence* sequence) {
  PrefillPolicy& policy = sequence->request.prefill;
  sequence->report.prefill.asked = policy.lazy();
  sequence->report.prefill.decode = policy.decode;
  const bool cuts = std::ranges::any_of(policy.keep, [](float keep) { return keep < 1; });
  if (!cuts) return;
  if (sequence->prompt_tokens() < policy.min_prompt ||
      sequence->prompt_tokens() < policy.rules.window) {
    sequence->report.prefill.mode = PrefillMode::kExactShort;
    return;
  }
  policy.rules.strict = policy.decode == DecodeMode::kStrict;
  sequence->report.prefill.mode = PrefillMode::kLazy;
  sequence->lazy = std::make_unique<LazyProgress>(geometry, policy, sequence->prompt_tokens());
}

// Rows of the plan that precede a prompt token, and so score it.
int32_t ScoredRows(const Sequence& sequence, const PlanSequence& planned) {
  const int32_t end = std::min(sequence.computed + planned.row_count, sequence.prompt_tokens() - 1);
  return std::max(0, end - sequence.computed);
}

// What the engine promised for this sequence; anything else is a fault of its own.
absl::Status CheckResult(const Sequence& sequence, const PlanSequence& planned,
                         const SequenceResult& result) {
  if (!result.status.ok()) return result.status;
  if (static_cast<int32_t>(result.sampled.size()) != planned.draws) {
    return absl::InternalError("the engine drew another number of tokens");
  }
  const int32_t scores = planned.logits == LogitsWanted::kAll ? ScoredRows(sequence, planned) : 0;
  if (static_cast<int32_t>(result.prompt_logprobs.size()) != scores) {
    return absl::InternalError("the engine returned another number of prompt log-probabilities");
  }
  if (result.cuts.size() != planned.cuts.size()) {
    return absl::InternalError("the engine returned another number of cuts");
  }
  return absl::OkStatus();
}

void FillReport(const LazyProgress& lazy, int32_t layers, Finish* finish) {
  PrefillReport& report = finish->prefill;
  report.segment_tokens = lazy.SegmentTokens();
  report.revived_tokens = lazy.revived();
  if (!lazy.prompt_done()) return;
  report.kept_tokens = lazy.kept();
  report.predicted_tokens = lazy.predicted();
  report.token_layers_saved =
      int64_t{finish->prompt_tokens} * layers - lazy.token_layers() - lazy.extra_token_layers();
}

}  // namespace

Scheduler::Scheduler(const SchedulerConfig& config, const KvGeometry& geometry, Intake* intake,
                     ServingObserver* observer)
    : config_(config),
      limits_{.max_rows_per_step = config.max_rows_per_step,
              .max_rows =
                  std::max(config.max_rows_per_step, geometry.max_rows - config.max_revival_rows),
              .max_revival_rows = config.max_revival_rows,
              // More could not all decode in one step.
              .max_running = std::min(config.max_running, config.max_rows_per_step),
              .layers = std::max<int32_t>(1, geometry.layers),
              .draft_model_row_layers = std::max(1, geometry.draft_model.row_layers)},
      pace_(config.max_decode_slowdown, int64_t{limits_.max_rows_per_step} * limits_.layers,
            limits_.layers),
      geometry_(geometry),
      intake_(intake),
      observer_(observer),
      cache_(geometry, config.prefix_cache),
      answers_(config.answer_store_bytes) {
  SKIM_CHECK(limits_.max_running > 0);
  for (int32_t place = geometry.feature_places; place > 0; --place) {
    free_feature_places_.push_back(place - 1);
  }
}

void Scheduler::TakeArrivals() {
  for (Arrival& arrival : intake_->Take()) {
    auto sequence = std::make_unique<Sequence>();
    sequence->tokens = arrival.request.prompt;
    sequence->request = std::move(arrival.request);
    sequence->channel = std::move(arrival.channel);
    sequence->arrival = arrivals_++;
    sequence->tenant = fair_share_.Join(sequence->request.tenant);
    sequence->report.prompt_tokens = sequence->prompt_tokens();
    sequence->report.weight_format = sequence->request.weight_format;
    sequence->report.submitted = arrival.submitted;
    PrepareLazy(geometry_, sequence.get());
    if (sequence->request.speculation.on()) {
      sequence->speculation = std::make_unique<Speculation>(
          sequence->request.speculation, sequence->request.sampling,
          DraftContext{geometry_.layers, &answers_, sequence->owner(), geometry_.draft_model});
    }
    if (const uint64_t id = sequence->request.group; id != 0) {
      Group& group = groups_.try_emplace(id, Group{.leader = sequence->arrival}).first->second;
      ++group.members;
    }
    waiting_.push_back(std::move(sequence));
  }
}

const StepPlan& Scheduler::BeginStep(Micros now) {
  SKIM_CHECK(plan_.empty());
  stats_ = StepStats();
  step_begin_ = now;
  if (!slices_.empty()) {  // between the draft passes of a step, or behind them
    Reap(now);
  }
  if (slices_.empty()) {
    ++steps_;
    TakeArrivals();
    Reap(now);
    Propose();
    bool failed = false;
    do {
      PolicyLimits limits = limits_;
      limits.prefill_budget = pace_.Budget();
      Decision decision =
          Decide(limits, cache_, Borrow(running_), Borrow(waiting_), fair_share_.served());
      failed = decision.failed != nullptr;
      Apply(std::move(decision), now);
      Sweep();
    } while (failed);
  }
  PlanDrafts();
  if (plan_.empty()) PlanStep();
  return plan_;
}

void Scheduler::Reap(Micros now) {
  for (const auto& sequence : running_) ReapOne(*sequence, now);
  for (const auto& sequence : waiting_) ReapOne(*sequence, now);
  Sweep();
  for (const auto& sequence : waiting_) sequence->held = Held(*sequence);
}

void Scheduler::ReapOne(Sequence& sequence, Micros now) {
  if (sequence.channel->cancelled()) {
    return End(sequence, FinishReason::kCancelled, absl::OkStatus(), now);
  }
  if (now >= sequence.request.deadline) {
    return End(sequence, FinishReason::kTimeLimit, absl::OkStatus(), now);
  }
  if (sequence.report.generated_tokens == 0 || sequence.channel->HasRoom(1)) {
    sequence.paused_since = kNever;
    return;
  }
  if (!sequence.paused()) sequence.paused_since = now;
  if (now - sequence.paused_since >= config_.slow_reader_limit) {
    End(sequence, FinishReason::kError,
        absl::ResourceExhaustedError(absl::StrCat("slow reader: ", config_.channel_tokens,
                                                  " tokens have been waiting to be read")),
        now);
  }
}

bool Scheduler::Held(const Sequence& sequence) const {
  if (sequence.request.group == 0 || !config_.prefix_cache || !sequence.may_hit()) return false;
  const Group& group = groups_.at(sequence.request.group);
  return !group.computed && group.leader != sequence.arrival;
}

void Scheduler::Apply(Decision decision, Micros now) {
  for (Sequence* sequence : decision.draft_models_dropped) {
    cache_.ReleaseDraftModel(&sequence->kv);
    sequence->speculation->EvictDraftModel();
  }
  for (Sequence* sequence : decision.hidden_dropped) DropHidden(*sequence);
  for (Sequence* sequence : decision.preempted) Preempt(*sequence);
  for (const Decision::Admission& admission : decision.admitted) Admit(admission, now);
  slices_ = std::move(decision.slices);
  prefill_token_layers_ = decision.prefill_token_layers;
  for (Decision::Slice& slice : slices_) {
    Sequence& sequence = *slice.sequence;
    // Who has just lost its hidden rows revives nobody and needs no pages for them.
    if (std::ranges::count(decision.hidden_dropped, &sequence) > 0) {
      const int32_t draft_slots = slice.extent.draft_slots;
      slice.extent = sequence.lazy->AfterDecode(sequence.computed, slice.rows + slice.drafts);
      slice.extent.draft_slots = draft_slots;
    }
    cache_.Grow(slice.extent, &sequence.kv);
    if (sequence.speculation) sequence.speculation->Begin(slice.drafts);
  }
  if (decision.failed != nullptr) {
    End(*decision.failed, FinishReason::kError,
        absl::ResourceExhaustedError("the sequence has outgrown the KV cache"), now);
  }
}

void Scheduler::DropHidden(Sequence& sequence) {
  sequence.lazy->DropHidden(sequence.computed);
  sequence.report.prefill.hidden_dropped = true;
  ReleaseUselessHidden(sequence);
}

void Scheduler::ReleaseUselessHidden(Sequence& sequence) {
  const LazyProgress::UselessHidden useless = sequence.lazy->TakeUselessHidden();
  if (useless.all) return cache_.ReleaseAllHidden(&sequence.kv);
  cache_.ReleaseHidden(useless.blocks, useless.deep_pages, &sequence.kv);
}

void Scheduler::Preempt(Sequence& sequence) {
  cache_.Release(&sequence.kv);
  ReturnFeaturePlace(sequence);
  if (sequence.speculation) sequence.speculation->ForgetDraftModel();
  if (sequence.lazy) sequence.lazy->Restart();
  sequence.computed = 0;
  ++sequence.report.preemptions;
  ++stats_.preempted;
  Move(&sequence, &running_, &waiting_);
}

void Scheduler::Admit(const Decision::Admission& admission, Micros now) {
  Sequence& sequence = *admission.sequence;
  if (admission.exact) {
    sequence.lazy.reset();
    sequence.report.prefill.mode = PrefillMode::kExactShort;
  }
  LazyProgress* lazy = sequence.lazy.get();
  cache_.Adopt(admission.hits, lazy != nullptr ? lazy->shared() : cache_.WholeBlocks(),
               &sequence.kv);
  const int32_t cached = static_cast<int32_t>(admission.hits.size()) * cache_.page_tokens();
  if (lazy != nullptr) {
    lazy->TakeCached(cached);
  } else {
    sequence.computed = cached;
  }
  sequence.charged_tokens = std::max(sequence.charged_tokens, Served(sequence));
  Move(&sequence, &waiting_, &running_);
  TakeFeaturePlace(sequence);
  if (sequence.report.scheduled != kNever) return;  // resumed
  sequence.report.scheduled = now;
  sequence.report.cached_tokens = cached;
  intake_->Left(sequence.prompt_tokens());
  if (sequence.may_hit() && config_.prefix_cache) stats_.prefix_queries += sequence.prompt_tokens();
  stats_.prefix_hits += cached;
}

void Scheduler::TakeFeaturePlace(Sequence& sequence) {
  const bool wants = sequence.speculation && sequence.speculation->uses_head();
  if (!wants || free_feature_places_.empty()) return;
  sequence.feature_place = free_feature_places_.back();
  free_feature_places_.pop_back();
}

void Scheduler::ReturnFeaturePlace(Sequence& sequence) {
  if (sequence.feature_place == kNoFeatures) return;
  free_feature_places_.push_back(sequence.feature_place);
  sequence.feature_place = kNoFeatures;
  sequence.speculation->SetFeatureRow(kNoFeatures);
}

void Scheduler::Commit(const absl::Status& executed, StepResult result, Micros now) {
  absl::Status fault = executed;
  if (fault.ok() && result.sequences.size() != planned_.size()) {
    fault = absl::InternalError("the engine returned another number of sequences");
  }
  if (fault.ok() && !result.settled.empty()) {
    for (const Decision::Slice& slice : slices_) SettleDrafts(*slice.sequence, result.settled);
    for (Sequence* sequence : planned_) SettleDrafts(*sequence, result.settled);
  }
  for (size_t i = 0; i < planned_.size(); ++i) {
    if (planned_[i]->ended) continue;  // by what it did beside this
    if (fault.ok() && plan_.sequences[i].draft) {
      CommitDraft(*planned_[i], plan_.sequences[i], result.sequences[i]);
    } else if (fault.ok()) {
      CommitOne(*planned_[i], plan_.sequences[i], planned_rows_[i], result.sequences[i], now);
    } else {
      End(*planned_[i], FinishReason::kError,
          absl::InternalError(absl::StrCat("device fault: ", fault.message())), now);
    }
  }
  if (stats_.decode_rows > 0) pace_.Add(prefill_token_layers_, now - step_begin_);
  if (fault.ok()) {
    auto_speculation_.Observe(plan_, geometry_.layers, result.pending, now - step_begin_);
  }
  plan_ = StepPlan();
  planned_.clear();
  planned_rows_.clear();
  Sweep();
}

absl::Status Scheduler::CommitPruned(Sequence& sequence, int32_t rows,
                                     const SequenceResult& result) {
  LazyProgress& lazy = *sequence.lazy;
  if (lazy.prompt_done()) {
    SKIM_RETURN_IF_ERROR(lazy.CommitDecode(sequence.computed, rows, result.cuts));
    sequence.computed += rows;
  } else {
    const bool scouted = lazy.scouting();
    SKIM_RETURN_IF_ERROR(lazy.CommitTile(rows, result.cuts));
    if (scouted) cache_.Trim(lazy.AfterTile(/*rows=*/0), &sequence.kv);
    if (lazy.prompt_done()) sequence.computed = sequence.prompt_tokens();
  }
  ReleaseUselessHidden(sequence);
  PrefillReport& report = sequence.report.prefill;
  if (lazy.prompt_done()) {
    report.hidden_pages =
        std::max(report.hidden_pages, static_cast<int32_t>(sequence.kv.hidden_pages()));
  }
  return absl::OkStatus();
}

// The draws are output up to the first that is not what was drafted, inclusive: those behind it
// follow a token that is not there. Each is what would have been drawn alone (step_plan.h), so
// each may end the request as it would alone.
Scheduler::Run Scheduler::OutputOf(const Sequence& sequence, std::span<const TokenId> drafts,
                                   std::span<const SampledToken> draws) const {
  const SamplingParams& sampling = sequence.request.sampling;
  Run run;
  for (const SampledToken& draw : draws) {
    if (!draw.finite || draw.token < 0) {
      run.finite = false;
      return run;
    }
    const bool drafted = run.tokens < std::ssize(drafts) && draw.token == drafts[run.tokens];
    run.accepted += drafted;
    ++run.tokens;
    if (std::ranges::find(sampling.stop_tokens, draw.token) != sampling.stop_tokens.end()) {
      run.end = FinishReason::kStopToken;
    } else if (sequence.report.generated_tokens + run.tokens >= sampling.max_tokens ||
               sequence.total() + run.tokens >= config_.max_context) {
      run.end = FinishReason::kLength;
    }
    if (!drafted || run.end.has_value()) break;
  }
  return run;
}

void Scheduler::CommitOne(Sequence& sequence, const PlanSequence& planned, int32_t rows,
                          SequenceResult& result, Micros now) {
  absl::Status status = CheckResult(sequence, planned, result);
  if (!status.ok()) return End(sequence, FinishReason::kError, std::move(status), now);
  // Of the planned ones, those that remain now that they are known.
  std::span<const TokenId> drafts;
  if (!planned.drafts.empty()) drafts = sequence.speculation->drafts();
  const Run run = OutputOf(sequence, drafts, result.sampled);
  if (!planned.drafts.empty()) {
    // What behind the run was computed is as if it never had been: the next rows write over it.
    rows = run.tokens;
    if (!run.finite) {
      sequence.speculation->Stop();
      cache_.ReleaseDraftModel(&sequence.kv);
    }
  } else if (!run.finite) {
    return End(sequence, FinishReason::kError,
               absl::InternalError("no token could be drawn: the logits are not finite"), now);
  }
  if (sequence.feature_place != kNoFeatures) {
    // Behind the last token that is output, if any was drawn.
    sequence.speculation->SetFeatureRow(run.tokens > 0 ? run.tokens - 1 : kNoFeatures);
  }
  if (sequence.speculation && sequence.speculation->in_round()) EndRound(sequence, run);
  if (sequence.lazy) status = CommitPruned(sequence, rows, result);
  if (!status.ok()) return End(sequence, FinishReason::kError, std::move(status), now);

  // What a preemption made us compute again has been delivered before.
  for (size_t i = 0; i < result.prompt_logprobs.size(); ++i) {
    if (sequence.computed + static_cast<int32_t>(i) + 1 < sequence.scored_tokens) continue;
    sequence.prompt_logprobs.push_back(std::move(result.prompt_logprobs[i]));
    ++sequence.scored_tokens;
  }
  if (!sequence.lazy) sequence.computed += rows;
  const int32_t served = Served(sequence);
  if (served > sequence.charged_tokens) {
    fair_share_.Charge(sequence.tenant, served - sequence.charged_tokens);
    sequence.charged_tokens = served;
  }
  Deliver(sequence, std::span(result.sampled).first(static_cast<size_t>(run.tokens)), now);
  if (!sequence.lazy) {
    cache_.Publish(sequence.domain(), sequence.tokens, sequence.computed, &sequence.kv);
  } else if (!sequence.lazy->prompt_done()) {
    cache_.Publish(sequence.domain(sequence.lazy->shared_layers()), sequence.tokens,
                   sequence.lazy->shareable(), &sequence.kv);
  }
  if (sequence.request.group != 0 && sequence.computed >= sequence.prompt_tokens()) {
    groups_.at(sequence.request.group).computed = true;
  }
  if (run.end.has_value()) End(sequence, *run.end, absl::OkStatus(), now);
}

// In tokens at full depth.
int32_t Scheduler::Served(const Sequence& sequence) const {
  if (!sequence.lazy) return sequence.computed;
  const int32_t generated = std::max(0, sequence.computed - sequence.prompt_tokens());
  return generated + static_cast<int32_t>(sequence.lazy->token_layers() / limits_.layers);
}

void Scheduler::Deliver(Sequence& sequence, std::span<SampledToken> run, Micros now) {
  if (run.empty()) return;
  if (sequence.report.generated_tokens == 0) {
    sequence.report.first_token = now;
    observer_->OnFirstToken(now - sequence.report.submitted, sequence.report.prefill.mode);
    if (!sequence.prompt_logprobs.empty()) {
      sequence.channel->PushPromptLogprobs(std::exchange(sequence.prompt_logprobs, {}));
    }
  } else {
    observer_->OnTokens(static_cast<int32_t>(run.size()), now - sequence.last_token);
  }
  sequence.last_token = now;
  sequence.report.generated_tokens += static_cast<int32_t>(run.size());
  for (SampledToken& token : run) {
    sequence.tokens.push_back(token.token);
    sequence.channel->Push(std::move(token));
  }
}

void Scheduler::End(Sequence& sequence, FinishReason reason, absl::Status status, Micros now) {
  SKIM_CHECK(!sequence.ended);
  sequence.ended = true;
  if (sequence.lazy) FillReport(*sequence.lazy, limits_.layers, &sequence.report);
  if (sequence.speculation) sequence.report.speculation = sequence.speculation->report();
  cache_.Release(&sequence.kv);
  ReturnFeaturePlace(sequence);
  // What was told, however the request ended: a stop string is a cancellation here.
  if (sequence.request.speculation.shared_store && reason != FinishReason::kError) {
    const auto prompt = static_cast<size_t>(sequence.prompt_tokens());
    answers_.Add(sequence.owner(), std::span(sequence.tokens).subspan(prompt));
  }
  LeaveGroup(sequence);
  fair_share_.Leave(sequence.tenant);
  if (sequence.report.scheduled == kNever) intake_->Left(sequence.prompt_tokens());

  sequence.report.reason = reason;
  sequence.report.status = std::move(status);
  sequence.report.finished = now;
  observer_->OnFinish(sequence.report);
  intake_->Finished();
  if (!sequence.prompt_logprobs.empty()) {
    sequence.channel->PushPromptLogprobs(std::move(sequence.prompt_logprobs));
  }
  sequence.channel->Close(std::move(sequence.report));
}

// While the prompt is not computed, the leader is the member that came first.
void Scheduler::LeaveGroup(const Sequence& sequence) {
  const auto found = groups_.find(sequence.request.group);
  if (found == groups_.end()) return;
  Group& group = found->second;
  if (--group.members == 0) {
    groups_.erase(found);
    return;
  }
  if (group.computed || group.leader != sequence.arrival) return;
  group.leader = UINT64_MAX;
  for (const Owned* owned : {&running_, &waiting_}) {
    for (const auto& other : *owned) {
      if (other->ended || other->request.group != sequence.request.group) continue;
      group.leader = std::min(group.leader, other->arrival);
    }
  }
}

void Scheduler::Sweep() {
  const auto ended = [](const auto& sequence) { return sequence->ended; };
  std::erase_if(slices_, [](const Decision::Slice& slice) { return slice.sequence->ended; });
  std::erase_if(running_, ended);
  std::erase_if(waiting_, ended);
}

void Scheduler::EndAll(const absl::Status& reason, Micros now) {
  TakeArrivals();
  for (const Owned* owned : {&running_, &waiting_}) {
    for (const auto& sequence : *owned) End(*sequence, FinishReason::kError, reason, now);
  }
  slices_.clear();
  plan_ = StepPlan();
  planned_.clear();
  planned_rows_.clear();
  Sweep();
}

Micros Scheduler::NextDeadline() const {
  Micros next = kNever;
  for (const Owned* owned : {&running_, &waiting_}) {
    for (const auto& sequence : *owned) {
      next = std::min(next, sequence->request.deadline);
      // Compared by difference: the limit may be "never".
      if (sequence->paused() && config_.slow_reader_limit < kNever - sequence->paused_since) {
        next = std::min(next, sequence->paused_since + config_.slow_reader_limit);
      }
    }
  }
  return next;
}

LoopState Scheduler::State() const {
  LoopState state;
  state.running = static_cast<int32_t>(running_.size());
  state.waiting = static_cast<int32_t>(waiting_.size());
  for (const auto& sequence : waiting_) state.waiting_tokens += sequence->prompt_tokens();
  state.kv_pages_total = cache_.ledger().total();
  state.kv_pages_owned = cache_.ledger().owned();
  state.kv_pages_cached = cache_.ledger().cached();
  state.answer_bytes = answers_.bytes();
  state.answer_owners = answers_.owners();
  return state;
}

}  // namespace skim
