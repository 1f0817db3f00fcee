// Answers that later requests draft from, through the scheduler: who sees whose, and that nobody
// is told anything else for it. All by counts of drafts, none by time.
#include <gtest/gtest.h>

#include <memory>
#include <vector>

#include "scheduler/scheduler.h"
#include "tests/scheduler/fake_engine.h"
#include "tests/scheduler/null_observer.h"

namespace skim {
namespace {

constexpr int32_t kAnswer = 60, kVocabulary = 5000;

class SharedAnswers : public ::testing::Test {
 protected:
  struct Told {
    std::vector<TokenId> tokens;
    Finish finish;
    const DraftCounts& stored() const { return finish.speculation.by_source[kStoreSource]; }
  };

  SharedAnswers()
      : intake_(64, 1 << 16),
        engine_(Geometry(), [](const PlanSequence& sequence, std::span<const TokenId> text,
                               std::span<const TokenId>) {
          return HashedNextToken(sequence.sampling->seed, text.last(2), kVocabulary);
        }) {
    SchedulerConfig config;
    config.max_context = 200;
    config.prefix_cache = false;
    config.answer_store_bytes = 4 * AnswerStore::kSlabBytes;
    scheduler_ = std::make_unique<Scheduler>(config, Geometry(), &intake_, &observer_);
  }

  static Request Asking(const std::string& tenant, const std::string& salt = "") {
    Request request;
    request.prompt = {1, 2, 3};
    request.tenant = tenant;
    request.cache_salt = salt;
    request.sampling.max_tokens = kAnswer;
    request.sampling.seed = 7;
    request.speculation.drafter = DrafterKind::kLookup;
    request.speculation.shared_store = true;
    return request;
  }

  std::shared_ptr<TokenChannel> Submit(Request request) {
    request.id = next_id_++;
    auto channel = std::make_shared<TokenChannel>(1024, std::function<void()>());
    EXPECT_TRUE(intake_.Submit({std::move(request), channel, now_}).ok());
    return channel;
  }

  void Step() {
    const StepPlan& plan = scheduler_->BeginStep(++now_);
    lookups_ += scheduler_->stats().answer_lookups;
    hits_ += scheduler_->stats().answer_hits;
    if (plan.empty()) return;
    StepResult result;
    const absl::Status executed = engine_.Execute(plan, &result);
    EXPECT_EQ(engine_.complaint(), "");
    scheduler_->Commit(executed, std::move(result), ++now_);
  }

  Told Ask(Request request) {
    const auto channel = Submit(std::move(request));
    Told told;
    while (true) {
      Step();
      TokenChannel::Drained got = channel->Drain();
      for (const SampledToken& token : got.tokens) told.tokens.push_back(token.token);
      if (!got.finish.has_value()) continue;
      told.finish = *got.finish;
      return told;
    }
  }

  static KvGeometry Geometry() {
    KvGeometry geometry;
    geometry.page_tokens = 8;
    geometry.total_pages = 200;
    geometry.layers = 4;
    return geometry;
  }

  Intake intake_;
  NullObserver observer_;
  FakeEngine engine_;
  std::unique_ptr<Scheduler> scheduler_;
  SeqId next_id_ = 1;
  Micros now_ = 1;
  int64_t lookups_ = 0, hits_ = 0;
};

TEST_F(SharedAnswers, TheSameQuestionIsAnsweredInFewerStepsTheSecondTime) {
  const Told first = Ask(Asking("ann"));
  EXPECT_EQ(first.finish.speculation.total().drafted, 0);
  const Told second = Ask(Asking("ann"));
  EXPECT_EQ(second.tokens, first.tokens);
  // All but the first two tokens, whose continuation is found, and those that the model gives
  // behind each round's drafts.
  EXPECT_EQ(second.stored().accepted, second.stored().drafted);
  EXPECT_EQ(second.stored().tokens, kAnswer - 2);
  EXPECT_EQ(second.stored().rounds, (kAnswer - 2 + 4) / 5);
  EXPECT_EQ(scheduler_->State().answer_owners, 1);
  EXPECT_EQ(scheduler_->State().answer_bytes, AnswerStore::kSlabBytes);
  EXPECT_EQ(hits_, second.stored().rounds);
  EXPECT_GT(lookups_, hits_);
}

TEST_F(SharedAnswers, NobodyElseSeesThem) {
  const Told ann = Ask(Asking("ann"));
  for (const auto& [tenant, salt] :
       {std::pair{"bob", ""}, std::pair{"ann", "salt"}, std::pair{"", "ann"}, std::pair{"", ""}}) {
    const Told other = Ask(Asking(tenant, salt));
    EXPECT_EQ(other.tokens, ann.tokens);
    EXPECT_EQ(other.finish.speculation.total().drafted, 0) << tenant << "/" << salt;
  }
  EXPECT_EQ(hits_, 0);
}

TEST_F(SharedAnswers, OnlyWhoAsksForItIsStoredAndServed) {
  Request alone = Asking("ann");
  alone.speculation.shared_store = false;
  Ask(alone);
  EXPECT_EQ(scheduler_->State().answer_bytes, 0);
  EXPECT_EQ(Ask(Asking("ann")).finish.speculation.total().drafted, 0);
  EXPECT_EQ(Ask(alone).finish.speculation.total().drafted, 0);
  EXPECT_GT(Ask(Asking("ann")).stored().drafted, 0);
}

TEST_F(SharedAnswers, ThePromptIsNotStored) {
  const TokenId first = Ask(Asking("bob")).tokens[0];
  Request request = Asking("ann");
  request.prompt = {1, 2, 3, first, 77, 78};
  Ask(request);
  // Its first token ends what stands in the prompt before.
  EXPECT_EQ(Ask(Asking("ann")).finish.speculation.total().drafted, 0);
}

TEST_F(SharedAnswers, TheRequestsOwnTextComesFirst) {
  const Told first = Ask(Asking("ann"));
  Request request = Asking("ann");
  // The first ten tokens of the answer are in the prompt, the others in the store.
  request.prompt.insert(request.prompt.end(), first.tokens.begin(), first.tokens.begin() + 10);
  request.prompt.insert(request.prompt.end(), {1, 2, 3});
  const Told second = Ask(request);
  EXPECT_EQ(second.tokens, first.tokens);
  EXPECT_GE(second.finish.speculation.by_source[kTextSource].tokens, 9);
  EXPECT_LE(second.finish.speculation.by_source[kTextSource].tokens, 12);
  EXPECT_GE(second.stored().tokens, kAnswer - 15);
}

TEST_F(SharedAnswers, WhatWasToldBeforeACancellationIsStored) {
  const auto channel = Submit(Asking("ann"));
  for (int i = 0; i < 20; ++i) Step();
  channel->Cancel();
  Step();
  ASSERT_TRUE(channel->Drain().finish.has_value());
  const Told next = Ask(Asking("ann"));
  // Of the 20 tokens that were told, those behind the first two, and one that the model adds.
  EXPECT_EQ(next.stored().accepted, next.stored().drafted);
  EXPECT_EQ(next.stored().tokens, 18 + 1);
}

TEST_F(SharedAnswers, WhatFailedIsNotStored) {
  const auto channel = Submit(Asking("ann"));
  for (int i = 0; i < 10; ++i) Step();
  engine_.fault = absl::InternalError("on purpose");
  Step();
  ASSERT_FALSE(channel->Drain().finish->status.ok());
  EXPECT_EQ(scheduler_->State().answer_bytes, 0);
}

TEST_F(SharedAnswers, AutoChoosesFromThemToo) {
  Request request = Asking("ann");
  request.speculation.drafter = DrafterKind::kAuto;
  request.speculation.max_drafts = 8;
  const Told first = Ask(request);
  const Told second = Ask(request);
  EXPECT_EQ(second.tokens, first.tokens);
  EXPECT_GT(second.stored().accepted, kAnswer / 4);
  request.speculation.shared_store = false;
  EXPECT_EQ(Ask(request).finish.speculation.total().drafted, 0);
}

}  // namespace
}  // namespace skim
