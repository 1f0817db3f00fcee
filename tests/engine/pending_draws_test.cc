// Draft passes that are not waited for: what is told, and which drafts count, are the same.
#include "engine/pending_draws.h"

#include <gtest/gtest.h>

#include <memory>
#include <random>
#include <string>
#include <vector>

#include "tests/engine/scheduled_engine.h"
#include "tests/engine/toy_draft_head.h"
#include "tests/engine/toy_draft_model.h"

namespace skim {
namespace {

constexpr char kModel[] = "tiny-llama3";  // three layers
constexpr int32_t kMany = 64;

struct Told {
  std::vector<TokenId> tokens;
  std::vector<std::vector<float>> logits;
  DraftCounts drafts;
};

// Two layers of the model itself draft, and its head drafts the newest token again.
class Model {
 public:
  Model() : model_(kModel) {
    model_.FillWithIdentity(/*stride=*/2);
    model_.Write();
    draft_.TakeFirstLayers(kModel, 2);
  }

  std::unique_ptr<EngineHarness> Load(int32_t pending_draws) const {
    HarnessOptions options;
    options.boundaries = {1};
    options.formats = {WeightFormat::kBf16, WeightFormat::kInt8};
    options.draft_model = draft_.path();
    options.pending_draws = pending_draws;
    auto harness = EngineHarness::Load(model_.path(), options);
    EXPECT_TRUE(harness.ok()) << harness.status();
    return *std::move(harness);
  }

 private:
  ModelWithDraftHead model_;
  ToyDraftModel draft_;
};

Request Asking(const SpeculationPolicy& speculation) {
  Request request;
  std::mt19937 rng(7);
  for (int32_t i = 0; i < 40; ++i) request.prompt.push_back(static_cast<TokenId>(rng() % 256));
  request.sampling.temperature = 0;
  request.sampling.max_tokens = 30;
  request.speculation = speculation;
  return request;
}

SpeculationPolicy Drafted(DrafterKind kind, WeightFormat format = WeightFormat::kBf16,
                          int32_t exit_layer = 3) {
  SpeculationPolicy policy;
  policy.drafter = kind;
  policy.max_drafts = 4;
  policy.draft_format = format;
  policy.exit_layer = exit_layer;
  return policy;
}

std::vector<SpeculationPolicy> Policies() {
  return {Drafted(DrafterKind::kSelf, WeightFormat::kInt8),
          Drafted(DrafterKind::kSelf, WeightFormat::kBf16, 2), Drafted(DrafterKind::kHead),
          Drafted(DrafterKind::kDraftModel)};
}

// All at one time. `put_off` counts the passes that were not waited for.
std::vector<Told> Generate(EngineHarness* harness, const std::vector<Request>& requests,
                           int64_t* put_off = nullptr) {
  ScheduledEngine engine(harness, {});
  std::vector<SeqId> ids;
  for (const Request& request : requests) ids.push_back(engine.Submit(request));
  engine.RunToEnd();
  std::vector<Told> told;
  for (size_t i = 0; i < ids.size(); ++i) {
    const ScheduledEngine::Client& client = engine.client(ids[i]);
    EXPECT_TRUE(client.finish && client.finish->status.ok());
    told.push_back({client.tokens, {}, client.finish->speculation.total()});
    const auto first = static_cast<int32_t>(requests[i].prompt.size()) - 1;
    for (size_t t = 0; t < client.tokens.size(); ++t) {
      told.back().logits.push_back(engine.Logits(ids[i], first + static_cast<int32_t>(t)));
    }
  }
  if (put_off != nullptr) *put_off = engine.put_off();
  return told;
}

void ExpectSame(const std::vector<Told>& told, const std::vector<Told>& plain) {
  for (size_t i = 0; i < told.size(); ++i) {
    EXPECT_EQ(told[i].tokens, plain[i].tokens) << i;
    EXPECT_EQ(told[i].logits, plain[i].logits) << i;
    EXPECT_EQ(told[i].drafts.drafted, plain[i].drafts.drafted) << i;
    EXPECT_EQ(told[i].drafts.accepted, plain[i].drafts.accepted) << i;
    EXPECT_EQ(told[i].drafts.rounds, plain[i].drafts.rounds) << i;
  }
}

TEST(PendingDraws, ARequestIsToldTheSameWhetherItsDraftPassesAreWaitedForOrNot) {
  const Model model;
  const auto waiting = model.Load(0), pending = model.Load(kMany);
  for (const SpeculationPolicy& policy : Policies()) {
    SCOPED_TRACE(DrafterName(policy.drafter));
    int64_t none = 0, put_off = 0;
    const std::vector<Request> one = {Asking(policy)};
    const auto plain = Generate(waiting.get(), one, &none);
    ExpectSame(Generate(pending.get(), one, &put_off), plain);
    EXPECT_EQ(none, 0);
    EXPECT_EQ(put_off, plain[0].drafts.passes) << "a round of speculation waits once";
    EXPECT_GT(plain[0].drafts.accepted, 0);
    EXPECT_LT(plain[0].drafts.accepted, plain[0].drafts.drafted);
  }
}

TEST(PendingDraws, DraftersOfAllKindsShareRoundsThatAreNotWaitedFor) {
  const Model model;
  const auto waiting = model.Load(0), pending = model.Load(kMany);
  std::vector<Request> all;
  for (const SpeculationPolicy& policy : Policies()) all.push_back(Asking(policy));
  all.push_back(Asking({}));
  all.push_back(all[0]);
  all.back().speculation.exit_layer = 1;
  all.back().prefill.keep = {0.6f};
  all.back().prefill.min_keep = 8;
  all.back().prefill.decode = DecodeMode::kStatic;
  all.push_back(all[2]);
  all.back().sampling.temperature = 0.8f;
  all.back().sampling.seed = 3;
  int64_t put_off = 0;
  ExpectSame(Generate(pending.get(), all, &put_off), Generate(waiting.get(), all));
  EXPECT_GT(put_off, 0);
}

TEST(PendingDraws, NothingIsDraftedBehindAStopTokenThatWasNotKnownInTime) {
  const Model model;
  const auto waiting = model.Load(0), pending = model.Load(kMany);
  Request request = Asking(Drafted(DrafterKind::kSelf, WeightFormat::kInt8));
  const std::vector<TokenId> text = Generate(waiting.get(), {request})[0].tokens;
  // Every token of the text once: it ends early, late, at the end of a round and inside one.
  for (const TokenId stop : text) {
    request.sampling.stop_tokens = {stop};
    int64_t put_off = 0;
    const auto plain = Generate(waiting.get(), {request});
    const auto told = Generate(pending.get(), {request}, &put_off);
    ExpectSame(told, plain);
    EXPECT_GE(told[0].drafts.passes, plain[0].drafts.passes);
  }
}

TEST(PendingDraws, WhatDependsOnTheDraftsIsWaitedFor) {
  const Model model;
  const auto waiting = model.Load(0), pending = model.Load(kMany);
  Request penalties = Asking(Drafted(DrafterKind::kSelf, WeightFormat::kInt8));
  penalties.sampling.repetition_penalty = 1.3f;
  Request unsure = Asking(Drafted(DrafterKind::kSelf, WeightFormat::kInt8));
  unsure.speculation.stop_confidence = 0.5f;
  for (const Request& request : {penalties, unsure}) {
    int64_t put_off = 0;
    ExpectSame(Generate(pending.get(), {request}, &put_off), Generate(waiting.get(), {request}));
    EXPECT_EQ(put_off, 0);
  }
}

TEST(PendingDraws, AnEngineWithoutRoomForMoreWaits) {
  const Model model;
  const auto waiting = model.Load(0), pending = model.Load(/*pending_draws=*/3);
  const Request request = Asking(Drafted(DrafterKind::kSelf, WeightFormat::kInt8));  // four passes
  int64_t put_off = 0;
  const auto plain = Generate(waiting.get(), {request});
  ExpectSame(Generate(pending.get(), {request}, &put_off), plain);
  EXPECT_GT(put_off, 0);
  EXPECT_LT(put_off, plain[0].drafts.passes);
}

TEST(PendingDraws, AnEngineRefusesPlansThatNameDrawsThatAreNotPending) {
  const Model model;
  const auto harness = model.Load(kMany);
  HarnessSequence sequence = harness->NewSequence({1, 2, 3});
  ASSERT_TRUE(harness->Step({{&sequence, 3}}).ok());
  StepPlan plan;
  plan.AddRow(PendingToken(0), 3, 0, 3);
  harness->ReservePages(&sequence, 5);
  PlanSequence entry = harness->Entry(sequence, 0, 1);
  entry.logits = LogitsWanted::kLast;
  entry.draws = 1;
  plan.sequences = {entry};
  StepResult result;
  const absl::Status status = harness->executor().Execute(plan, &result);
  EXPECT_EQ(status.code(), absl::StatusCode::kInternal) << status;
  plan.tokens = {4};
  plan.put_off = true;
  EXPECT_EQ(harness->executor().Execute(plan, &result).code(), absl::StatusCode::kInternal)
      << "it is no draft";
}

}  // namespace
}  // namespace skim
