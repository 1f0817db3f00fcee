#include "tests/scheduler/simulation.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <set>
#include <utility>

#include "absl/strings/match.h"

namespace skim {
namespace {

// Requests of the same salt share pages; the salt is a function of the id.
uint64_t SaltOf(SeqId id) { return id % 7 == 0 ? 1 + id % 2 : 0; }

int32_t LooksOf(const Request& request) {
  return request.prefill.looks_back() ? LazyProgress::kLooks : 0;
}

}  // namespace

int32_t Simulation::Pick(int32_t low, int32_t high) {
  return low + static_cast<int32_t>(random_() % static_cast<uint32_t>(high - low + 1));
}

FakeModel Simulation::Model() const {
  return
      [this](const PlanSequence& sequence, std::span<const TokenId> text,
             std::span<const TokenId> seen) { return Next(sequence.sampling->seed, text, seen); };
}

TokenId Simulation::Next(uint64_t seed, std::span<const TokenId> text,
                         std::span<const TokenId> seen) const {
  text = text.last(std::min<size_t>(text.size(), memory_));
  std::vector<TokenId> all(text.begin(), text.end());
  all.insert(all.end(), seen.begin(), seen.end());
  return HashedNextToken(seed, all, vocabulary_);
}

Simulation::Simulation(uint32_t seed, SimulationCounts* counts) : random_(seed), counts_(counts) {
  static const std::vector<std::vector<int32_t>> kUnits = {{1}, {1}, {2}, {2, 1, 1}, {1, 3}};
  geometry_.page_tokens = Pick(1, 5);
  geometry_.segment_units = kUnits[Pick(0, static_cast<int32_t>(kUnits.size()) - 1)];
  geometry_.layers = 4;
  if (geometry_.segment_units.size() == 2) geometry_.boundaries = {3};
  if (geometry_.segment_units.size() == 3) geometry_.boundaries = {1, 3};
  geometry_.phantom_cuts = geometry_.boundaries;
  geometry_.phantoms_per_row = Pick(1, 4);
  do {
    geometry_.hidden_rows_per_page = Pick(1, geometry_.page_tokens);
  } while (geometry_.page_tokens % geometry_.hidden_rows_per_page != 0);
  geometry_.total_pages = geometry_.PagesPerBlock() * Pick(3, 30) + Pick(0, 2);
  config_.max_rows_per_step = Pick(1, 24);
  if (Chance(40)) config_.max_decode_slowdown = Pick(11, 40) / 10.0;
  config_.max_revival_rows = Pick(8, 20);
  if (Chance(50)) geometry_.max_rows = 2 * config_.max_rows_per_step + config_.max_revival_rows;
  for (const int16_t boundary : geometry_.boundaries) {
    // With the first two tokens, no more than rows of a step.
    const bool any = config_.max_rows_per_step > 3 && Chance(40);
    geometry_.scouts.push_back({});
    if (!any) continue;
    geometry_.scouts.back() = {static_cast<int16_t>(Pick(boundary + 1, geometry_.layers)),
                               Pick(1, std::min(8, config_.max_rows_per_step - 2))};
  }
  config_.max_running = Pick(1, 8);
  geometry_.feature_places = Chance(80) ? config_.max_running : Pick(0, 2);
  if (Chance(85)) {
    geometry_.draft_model = {.layers = static_cast<int16_t>(Pick(1, 3)),
                             .units = Pick(1, 2),
                             .context = Chance(70) ? 1000 : Pick(5, 40),
                             .format = static_cast<WeightFormat>(Pick(0, kWeightFormats - 1)),
                             .row_layers = Pick(1, 4)};
  }
  config_.max_waiting = Pick(2, 20);
  config_.max_waiting_tokens = Pick(20, 400);
  const int32_t pool_tokens =
      geometry_.page_tokens * (geometry_.total_pages / geometry_.PagesPerBlock());
  // Mostly every sequence fits alone; in some schedules it can outgrow the pool.
  config_.max_context = Chance(80) ? std::clamp(pool_tokens, 4, 60) : Pick(10, 60);
  config_.prefix_cache = !Chance(15);
  if (Chance(60)) config_.answer_store_bytes = Pick(1, 3) * AnswerStore::kSlabBytes;
  config_.channel_tokens = static_cast<size_t>(Pick(1, 6));
  config_.slow_reader_limit = Pick(20, 500);
  vocabulary_ = Pick(2, 40);
  to_submit_ = Pick(5, 40);
  fault_percent_ = Chance(20) ? 2 : 0;
  for (int i = 0; i < 3; ++i) {
    std::vector<TokenId> prefix(Pick(1, 30));
    for (TokenId& token : prefix) token = Pick(0, vocabulary_ - 1);
    shared_prefixes_.push_back(std::move(prefix));
  }
  intake_ = std::make_unique<Intake>(config_.max_waiting, config_.max_waiting_tokens);
  scheduler_ = std::make_unique<Scheduler>(config_, geometry_, intake_.get(), &observer_);
  engine_ = std::make_unique<FakeEngine>(geometry_, Model());
  engine_->domain_of = &SaltOf;
  engine_->looks = [this](SeqId id) { return LooksOf(clients_.at(id).request); };
  const int32_t put_off_percent = std::array{0, 70, 100}[Pick(0, 2)];
  pending_engine_ = std::make_unique<PendingEngine>(
      engine_.get(), [this, put_off_percent] { return Chance(put_off_percent); });
  speculates_ = Chance(60);
  // What is stored is found where the own text says nothing: among many answers that are alike.
  if (speculates_ && Chance(config_.answer_store_bytes > 0 ? 60 : 30)) memory_ = Pick(1, 2);
  const int32_t right_percent = std::array{0, 50, 90, 100}[Pick(0, 3)];
  engine_->draft = [this, right_percent](SeqId, TokenId right) {
    if (Chance(right_percent)) return right;
    return (right + Pick(1, vocabulary_ - 1)) % vocabulary_;
  };
  if (Chance(10)) engine_->unusable = [this](SeqId) { return Chance(5); };
}

Request Simulation::RandomRequest(SeqId id) {
  Request request;
  request.id = id;
  const int64_t pool_tokens =
      int64_t{geometry_.page_tokens} * (geometry_.total_pages / geometry_.PagesPerBlock());
  const auto longest =
      static_cast<int32_t>(std::min<int64_t>(config_.max_context - 1, pool_tokens));
  if (Chance(60)) request.prompt = shared_prefixes_[Pick(0, 2)];
  const int32_t own = Pick(request.prompt.empty() ? 1 : 0, 20);
  for (int32_t i = 0; i < own; ++i) request.prompt.push_back(Pick(0, vocabulary_ - 1));
  if (static_cast<int32_t>(request.prompt.size()) > longest) request.prompt.resize(longest);
  request.sampling.seed = static_cast<uint64_t>(Pick(0, 3));
  request.sampling.max_tokens = Pick(1, 30);
  if (Chance(40)) request.sampling.stop_tokens = {Pick(0, vocabulary_ - 1)};
  request.sampling.prompt_logprobs = Chance(10);
  if (!geometry_.boundaries.empty() && !request.sampling.prompt_logprobs && Chance(60)) {
    request.prefill = RandomPolicy();
  }
  request.priority = Pick(0, 2) == 0 ? Pick(-1, 1) : 0;
  request.tenant = std::string(1, static_cast<char>('a' + Pick(0, 3)));
  if (SaltOf(id) != 0) request.cache_salt = "salt" + std::to_string(SaltOf(id));
  if (Chance(15)) request.deadline = now_ + Pick(0, 300);
  if (Chance(50)) request.weight_format = static_cast<WeightFormat>(Pick(0, kWeightFormats - 1));
  if (speculates_ && Chance(70)) request.speculation = RandomSpeculation(request);
  return request;
}

SpeculationPolicy Simulation::RandomSpeculation(const Request& request) {
  SpeculationPolicy policy;
  policy.drafter = static_cast<DrafterKind>(Pick(1, kDrafterKinds - 1));
  if (policy.drafter == DrafterKind::kDraftModel && !geometry_.draft_model.any()) {
    policy.drafter = DrafterKind::kAuto;
  }
  policy.max_drafts = Pick(1, 8);
  policy.min_ngram = Pick(1, 2);
  policy.max_ngram = Pick(policy.min_ngram, 3);
  policy.exit_layer = Pick(1, geometry_.layers);
  if (request.prefill.lazy()) policy.exit_layer = Pick(1, geometry_.boundaries[0]);
  for (int32_t layer = Pick(0, 3); layer < policy.exit_layer - 1; layer += Pick(1, 3)) {
    if (Pick(0, 1) == 0) policy.skipped_layers.push_back(static_cast<int16_t>(layer));
  }
  for (int format = 0; format < kWeightFormats && !request.prefill.lazy(); ++format) {
    if (Chance(50)) policy.draft_formats.push_back(static_cast<WeightFormat>(format));
  }
  policy.may_look_up = Chance(70);
  policy.shared_store = config_.answer_store_bytes > 0 && policy.drafter != DrafterKind::kSelf &&
                        policy.drafter != DrafterKind::kHead &&
                        policy.drafter != DrafterKind::kDraftModel && Chance(70);
  policy.may_use_head = Chance(50);
  policy.may_use_draft_model = Chance(50);
  policy.draft_format =
      Chance(50) ? request.weight_format : static_cast<WeightFormat>(Pick(0, kWeightFormats - 1));
  return policy;
}

PrefillPolicy Simulation::RandomPolicy() {
  PrefillPolicy policy;
  float keep = 1;
  for (size_t b = 0; b < geometry_.boundaries.size(); ++b) {
    if (Chance(80)) keep *= static_cast<float>(Pick(2, 10)) / 10;
    policy.keep.push_back(keep);
  }
  policy.min_keep = Pick(1, 4);
  policy.min_prompt = Pick(0, 8);
  policy.rules.sinks = Pick(0, 2);
  policy.rules.window = Pick(1, 1 + config_.max_rows_per_step / 3);
  if (Chance(30)) policy.rules.pinned = {{2, 4}};
  policy.decode = static_cast<DecodeMode>(Pick(0, 4));
  policy.revival_budget = Pick(0, 4);
  if (policy.decode == DecodeMode::kLate && Chance(50)) policy.look_back = Pick(1, 4);
  return policy;
}

void Simulation::Submit() {
  const Request base = RandomRequest(next_id_);
  const int32_t choices = Chance(20) ? Pick(2, 4) : 1;
  const uint64_t group = choices > 1 ? next_group_++ : 0;
  const bool stalls = Chance(15);
  const bool never_reads = Chance(3);
  for (int32_t i = 0; i < choices; ++i) {
    Request request = base;
    request.id = next_id_++;
    request.cache_salt.clear();
    if (SaltOf(request.id) != 0) {
      request.cache_salt = "salt" + std::to_string(SaltOf(request.id));
    }
    request.group = group;
    request.sampling.seed += static_cast<uint64_t>(i);
    auto channel = std::make_shared<TokenChannel>(config_.channel_tokens, std::function<void()>());
    ++counts_->requests;
    if (!intake_->Submit({request, channel, now_}).ok()) {
      ++counts_->refused;
      continue;
    }
    ++unfinished_;
    Client& client = clients_[request.id];
    client.request = std::move(request);
    client.channel = std::move(channel);
    client.stalls = stalls;
    client.never_reads = never_reads;
  }
}

void Simulation::Consume(bool everything) {
  for (auto it = clients_.begin(); it != clients_.end();) {
    auto& [id, client] = *it;
    if (Chance(1)) client.channel->Cancel();
    if (!everything && (client.never_reads || (client.stalls && !Chance(10)))) {
      ++it;
      continue;
    }
    TokenChannel::Drained got = client.channel->Drain();
    std::ranges::move(got.tokens, std::back_inserter(client.tokens));
    std::ranges::move(got.prompt_logprobs, std::back_inserter(client.prompt_logprobs));
    if (!got.finish.has_value()) {
      ++it;
      continue;
    }
    client.finish = std::move(got.finish);
    CheckFinished(id, client);
    it = clients_.erase(it);
  }
}

void Simulation::InjectFault(const StepPlan& plan) {
  engine_->broken.clear();
  if (!Chance(fault_percent_)) return;
  if (Chance(50)) {
    engine_->fault = absl::InternalError("fault on purpose");
    for (const PlanSequence& sequence : plan.sequences) clients_[sequence.id].disturbed = true;
  } else {
    const auto picked = Pick(0, static_cast<int32_t>(plan.sequences.size()) - 1);
    const SeqId victim = plan.sequences[picked].id;
    engine_->broken.insert(victim);
    // A guess that fails is no fault of the request.
    clients_[victim].disturbed |= std::ranges::any_of(
        plan.sequences, [&](const auto& entry) { return entry.id == victim && !entry.draft; });
  }
}

void Simulation::Step() {
  ++counts_->steps;
  now_ += Pick(0, 12);
  const StepPlan& plan = scheduler_->BeginStep(now_);
  CountEvictions();
  counts_->preemptions += scheduler_->stats().preempted;
  counts_->rows += plan.rows();
  CheckPages();
  CheckPlan(plan);
  // A step that follows draft passes was decided on before them.
  const bool draft = !plan.empty() && plan.sequences[0].draft;
  if (!draft && !follows_drafts_) CheckProgress(plan);
  follows_drafts_ = draft;
  if (::testing::Test::HasFailure()) return;
  if (plan.empty()) {
    const Micros next = scheduler_->NextDeadline();
    if (next != kNever && Chance(50)) now_ = std::max(now_, next);
    return;
  }
  InjectFault(plan);
  TellOfPreemptions();
  StepResult result;
  const absl::Status executed = pending_engine_->Execute(plan, &result);
  ASSERT_EQ(engine_->complaint(), "") << ToString(plan);
  now_ += Pick(1, 9);
  scheduler_->Commit(executed, std::move(result), now_);
  CheckPages();
  if (!draft) CheckPrompts();  // else the next step's pages have been taken already
}

void Simulation::CountEvictions() {
  std::map<SeqId, int32_t> holding;
  for (const auto& sequence : scheduler_->running()) {
    const SeqId id = sequence->request.id;
    const int32_t preemptions = sequence->report.preemptions;
    if (!sequence->kv.draft_model.empty()) {
      holding[id] = preemptions;
    } else if (draft_model_preemptions_.contains(id)) {
      counts_->draft_models_evicted += draft_model_preemptions_[id] == preemptions;
    }
  }
  draft_model_preemptions_ = std::move(holding);
}

void Simulation::TellOfPreemptions() {
  for (const auto& sequence : scheduler_->running()) {
    Client& client = clients_[sequence->request.id];
    if (std::exchange(client.preemptions, sequence->report.preemptions) <
        sequence->report.preemptions) {
      engine_->Restarted(sequence->request.id);
    }
  }
}

void Simulation::Run() {
  // Far beyond what any schedule needs: only a livelock reaches it.
  constexpr int kMostSteps = 20000;
  int steps = 0;
  while (to_submit_ > 0 || unfinished_ > 0) {
    ASSERT_LT(++steps, kMostSteps) << "no end in sight";
    while (to_submit_ > 0 && Chance(25)) {
      Submit();
      --to_submit_;
    }
    Step();
    Consume(false);
    if (::testing::Test::HasFailure()) return;
    // A client that never reads still has its finish waiting.
    if (to_submit_ == 0 && intake_->in_flight() == 0) Consume(true);
  }
  counts_->put_off += pending_engine_->put_off();
  EXPECT_EQ(intake_->in_flight(), 0);
  EXPECT_EQ(scheduler_->State().kv_pages_owned, 0) << "pages are held at idle";
  EXPECT_EQ(scheduler_->NextDeadline(), kNever);
}

FinishReason Simulation::Alone(const Request& request, std::vector<TokenId>* out) const {
  std::vector<TokenId> tokens = request.prompt;
  const SamplingParams& sampling = request.sampling;
  while (true) {
    const TokenId next = Next(sampling.seed, tokens, {});
    tokens.push_back(next);
    out->push_back(next);
    if (std::ranges::count(sampling.stop_tokens, next) > 0) return FinishReason::kStopToken;
    if (static_cast<int32_t>(out->size()) == sampling.max_tokens ||
        static_cast<int32_t>(tokens.size()) == config_.max_context) {
      return FinishReason::kLength;
    }
  }
}

FinishReason Simulation::AlonePruned(const Request& request, std::vector<TokenId>* out) {
  KvGeometry geometry = geometry_;
  geometry.total_pages = 1000;
  SchedulerConfig config = config_;
  config.max_rows_per_step = std::max(Pick(10, 40), 3 * request.prefill.rules.window);
  config.prefix_cache = false;
  config.channel_tokens = 1000;
  config.max_waiting_tokens = 1000;
  Intake intake(config.max_waiting, config.max_waiting_tokens);
  Scheduler scheduler(config, geometry, &intake, &observer_);
  FakeEngine engine(geometry, Model());
  engine.domain_of = &SaltOf;
  engine.looks = [&request](SeqId) { return LooksOf(request); };
  auto channel = std::make_shared<TokenChannel>(config.channel_tokens, std::function<void()>());
  Request alone = request;
  alone.deadline = kNever;
  alone.speculation = {};
  EXPECT_TRUE(intake.Submit({std::move(alone), channel, 0}).ok());
  while (true) {
    const StepPlan& plan = scheduler.BeginStep(1);
    EXPECT_FALSE(plan.empty());
    StepResult result;
    const absl::Status executed = engine.Execute(plan, &result);
    EXPECT_EQ(engine.complaint(), "") << ToString(plan);
    scheduler.Commit(executed, std::move(result), 1);
    TokenChannel::Drained got = channel->Drain();
    for (const SampledToken& token : got.tokens) out->push_back(token.token);
    if (got.finish.has_value()) return got.finish->reason;
    if (plan.empty() && ::testing::Test::HasFailure()) return FinishReason::kError;
  }
}

void Simulation::CheckSpeculation(const Request& request, const Finish& finish) {
  const SpeculationReport& report = finish.speculation;
  ASSERT_EQ(report.drafter, request.speculation.drafter);
  const DraftCounts total = report.total();
  ASSERT_LE(total.accepted, total.drafted);
  ASSERT_LE(total.accepted, finish.generated_tokens);
  ASSERT_GE(total.tokens, total.accepted);
  ASSERT_LE(total.tokens, total.accepted + total.rounds);
  // Those of the draft head run no layer, those of the draft model none of this model's.
  const DraftCounts& model = report.by_source[kDraftModelSource];
  ASSERT_GE(total.layers, total.passes - report.by_source[kHeadSource].passes - model.passes);
  ASSERT_EQ(model.layers, 0);
  ASSERT_EQ(total.catch_up_rows, model.catch_up_rows);
  ASSERT_TRUE(model.passes + model.catch_up_rows == 0 || request.speculation.uses_draft_model());
  counts_->caught_up += model.catch_up_rows;
  ASSERT_LE(total.layers, int64_t{total.passes} * geometry_.layers);
  int32_t drafted = 0, accepted = 0;
  for (int32_t i = 0; i < kMaxDrafts; ++i) {
    drafted += report.drafted_at[i];
    accepted += report.accepted_at[i];
    ASSERT_LE(report.accepted_at[i], report.drafted_at[i]);
    if (i >= request.speculation.max_drafts) {
      ASSERT_EQ(report.drafted_at[i], 0);
    }
  }
  ASSERT_EQ(drafted, total.drafted);
  ASSERT_EQ(accepted, total.accepted);
  SpeculationCounts& counts = finish.prefill.mode == PrefillMode::kLazy
                                  ? counts_->pruned_drafts
                                  : counts_->drafts[static_cast<size_t>(report.drafter)];
  counts.drafted += total.drafted;
  counts.accepted += total.accepted;
  const DraftCounts& stored = report.by_source[kStoreSource];
  ASSERT_TRUE(stored.drafted == 0 || request.speculation.shared_store);
  counts_->stored_drafts.drafted += stored.drafted;
  counts_->stored_drafts.accepted += stored.accepted;
}

void Simulation::CheckFinished(SeqId id, Client& client) {
  SCOPED_TRACE("request " + std::to_string(id));
  --unfinished_;
  const Finish& finish = *client.finish;
  ++counts_->finished[finish.reason];
  counts_->cached_tokens += finish.cached_tokens;
  CheckSpeculation(client.request, finish);
  if (::testing::Test::HasFailure()) return;

  std::vector<TokenId> right;
  const PrefillReport& prefill = finish.prefill;
  const bool pruned = prefill.mode == PrefillMode::kLazy;
  // What was not revived for lack of memory changes what follows.
  const bool comparable = !prefill.hidden_dropped && !(pruned && finish.generated_tokens == 0);
  FinishReason reason = finish.reason;
  if (!pruned) {
    reason = Alone(client.request, &right);
  } else if (comparable) {
    reason = AlonePruned(client.request, &right);
    if (::testing::Test::HasFailure()) return;
  } else {
    for (const SampledToken& token : client.tokens) right.push_back(token.token);
  }
  if (pruned && finish.generated_tokens > 0) {
    ++counts_->pruned;
    counts_->pruned_preempted += finish.preemptions > 0;
    counts_->pruned_cached_tokens += finish.cached_tokens;
    if (finish.preemptions == 0) {
      ASSERT_EQ(prefill.segment_tokens[0], finish.prompt_tokens - finish.cached_tokens);
    }
    if (SeesPhantoms(prefill.decode)) {
      if (prefill.kept_tokens > 0) {  // not preempted and ended before the prompt was done again
        ASSERT_EQ(prefill.predicted_tokens, finish.prompt_tokens - prefill.kept_tokens);
      }
      counts_->predicted += prefill.predicted_tokens;
      counts_->predicted_preempted += finish.preemptions > 0 ? prefill.predicted_tokens : 0;
    } else {
      ASSERT_EQ(prefill.predicted_tokens, 0);
    }
    counts_->revived += prefill.revived_tokens;
    if (prefill.decode == DecodeMode::kLate) counts_->revived_late += prefill.revived_tokens;
    counts_->hidden_dropped += prefill.hidden_dropped;
  }
  ASSERT_EQ(finish.generated_tokens, static_cast<int32_t>(client.tokens.size()));
  ASSERT_LE(client.tokens.size(), right.size());
  for (size_t i = 0; i < client.tokens.size(); ++i) {
    ASSERT_EQ(client.tokens[i].token, right[i]) << "token " << i;
  }
  switch (finish.reason) {
    case FinishReason::kStopToken:
    case FinishReason::kLength:
      ASSERT_EQ(finish.reason, reason);
      ASSERT_EQ(client.tokens.size(), right.size());
      break;
    case FinishReason::kTimeLimit:
      ASSERT_GE(finish.finished, client.request.deadline);
      break;
    case FinishReason::kCancelled:
      ASSERT_TRUE(client.channel->cancelled());
      break;
    case FinishReason::kError:
      if (client.disturbed) {
        ASSERT_EQ(finish.status.code(), absl::StatusCode::kInternal);
        break;
      }
      ASSERT_EQ(finish.status.code(), absl::StatusCode::kResourceExhausted);
      if (absl::StartsWith(finish.status.message(), "slow reader")) {
        ASSERT_TRUE(client.stalls || client.never_reads);
        ASSERT_GE(client.tokens.size(), config_.channel_tokens);
        ++counts_->slow_readers;
      } else {
        if (pruned) {  // what it needs is not told by its length alone
          ++counts_->outgrown;
          break;
        }
        const auto known = static_cast<int64_t>(client.request.prompt.size()) +
                           static_cast<int64_t>(client.tokens.size());
        ASSERT_GT(scheduler_->cache().PagesFor(known), geometry_.total_pages);
        ++counts_->outgrown;
      }
      break;
  }

  ASSERT_EQ(finish.prompt_tokens, static_cast<int32_t>(client.request.prompt.size()));
  ASSERT_LT(finish.cached_tokens, finish.prompt_tokens);
  if (finish.generated_tokens > 0) {
    ASSERT_LE(finish.submitted, finish.scheduled);
    ASSERT_LE(finish.scheduled, finish.first_token);
    ASSERT_LE(finish.first_token, finish.finished);
  }
  if (client.request.sampling.prompt_logprobs) {
    ASSERT_EQ(finish.cached_tokens, 0);
    if (finish.generated_tokens > 0) {
      ASSERT_EQ(client.prompt_logprobs.size(), client.request.prompt.size() - 1);
    }
    for (size_t i = 0; i < client.prompt_logprobs.size(); ++i) {
      const auto prefix = std::span<const TokenId>(client.request.prompt).first(i + 2);
      ASSERT_EQ(client.prompt_logprobs[i].token, prefix.back());
      ASSERT_EQ(client.prompt_logprobs[i].logprob, HashedLogprob(prefix));
    }
  } else {
    ASSERT_TRUE(client.prompt_logprobs.empty());
  }
}

}  // namespace skim
