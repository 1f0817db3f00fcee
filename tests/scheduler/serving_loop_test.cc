#include "scheduler/serving_loop.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <future>
#include <memory>
#include <optional>
#include <random>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "scheduler/waker.h"
#include "tests/scheduler/fake_engine.h"
#include "tests/scheduler/null_observer.h"

namespace skim {
namespace {

constexpr int32_t kVocabulary = 50;

KvGeometry Geometry(int32_t pages) {
  return {
      .page_tokens = 4, .total_pages = pages, .segment_units = {1}, .boundaries = {}, .layers = 2};
}

FakeModel Hashed() {
  return
      [](const PlanSequence& sequence, std::span<const TokenId> prefix, std::span<const TokenId>) {
        return HashedNextToken(sequence.sampling->seed, prefix, kVocabulary);
      };
}

SchedulerConfig Config() {
  SchedulerConfig config;
  config.max_rows_per_step = 16;
  config.max_running = 8;
  config.max_context = 64;
  return config;
}

Request MakeRequest(SeqId id, int32_t prompt_tokens, int32_t max_tokens) {
  Request request;
  request.id = id;
  for (int32_t i = 0; i < prompt_tokens; ++i) request.prompt.push_back((i * 7 + 1) % kVocabulary);
  request.sampling.max_tokens = max_tokens;
  request.sampling.seed = id;
  return request;
}

std::vector<TokenId> Alone(const Request& request) {
  std::vector<TokenId> tokens = request.prompt;
  std::vector<TokenId> out;
  for (int32_t i = 0; i < request.sampling.max_tokens; ++i) {
    out.push_back(HashedNextToken(request.sampling.seed, tokens, kVocabulary));
    tokens.push_back(out.back());
  }
  return out;
}

// A consumer that sleeps until it is notified.
class Reader {
 public:
  std::function<void()> on_ready() {
    return [bell = bell_] { bell->Wake(); };
  }

  // Drains until the finish, or until `enough` tokens have come.
  void Read(TokenChannel& channel, size_t enough = SIZE_MAX) {
    while (!finish.has_value() && tokens.size() < enough) {
      bell_->Wait(kNever);
      TokenChannel::Drained got = channel.Drain();
      for (const SampledToken& token : got.tokens) tokens.push_back(token.token);
      if (got.finish.has_value()) {
        EXPECT_FALSE(finish.has_value()) << "two finishes";
        finish = std::move(got.finish);
      }
    }
  }

  std::vector<TokenId> tokens;
  std::optional<Finish> finish;

 private:
  std::shared_ptr<Waker> bell_ = std::make_shared<Waker>();
};

struct Fixture {
  explicit Fixture(int32_t pages = 64, SchedulerConfig config = Config())
      : engine(Geometry(pages), Hashed()),
        owned(std::make_unique<ServingLoop>(config, &engine, &clock, &observer)),
        loop(*owned) {}
  ~Fixture() {
    owned.reset();
    EXPECT_EQ(engine.complaint(), "");
  }

  SteadyClock clock;
  NullObserver observer;
  FakeEngine engine;
  std::unique_ptr<ServingLoop> owned;
  ServingLoop& loop;
};

TEST(ServingLoop, DeliversEveryTokenInOrderAndOneFinish) {
  Fixture f;
  const Request request = MakeRequest(1, 20, 10);
  Reader reader;
  auto channel = f.loop.Submit(request, reader.on_ready());
  ASSERT_TRUE(channel.ok());
  reader.Read(**channel);
  EXPECT_EQ(reader.tokens, Alone(request));
  EXPECT_EQ(reader.finish->reason, FinishReason::kLength);
  EXPECT_EQ(f.loop.in_flight(), 0);
  EXPECT_TRUE(f.loop.healthy());
}

TEST(ServingLoop, RefusesWhatCouldNeverRun) {
  Fixture f(/*pages=*/4);
  const auto code = [&](const Request& request) {
    return f.loop.Submit(request, {}).status().code();
  };
  EXPECT_EQ(code(MakeRequest(1, 0, 1)), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(code(MakeRequest(1, 4, 0)), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(code(MakeRequest(1, 64, 1)), absl::StatusCode::kOutOfRange);
  EXPECT_EQ(code(MakeRequest(1, 17, 1)), absl::StatusCode::kOutOfRange);
  EXPECT_EQ(f.loop.in_flight(), 0);
  EXPECT_EQ(code(MakeRequest(1, 16, 1)), absl::StatusCode::kOk);
}

TEST(ServingLoop, RefusesSpeculationThatCannotBeHonoured) {
  Fixture f;
  using Damage = void (*)(SpeculationPolicy*);
  const std::pair<Damage, const char*> cases[] = {
      {[](auto* s) { s->max_drafts = 0; }, "max_draft_tokens"},
      {[](auto* s) { s->max_drafts = kMaxDrafts + 1; }, "max_draft_tokens"},
      {[](auto* s) { s->min_ngram = 0; }, "lookup"},
      {[](auto* s) { s->min_ngram = 5; }, "lookup"},
      {[](auto* s) { s->max_ngram = kMaxNgram + 1; }, "lookup"},
      {[](auto* s) { s->exit_layer = 0; }, "exit_layer"},
      {[](auto* s) { s->exit_layer = 3; }, "exit_layer"},
      {[](auto* s) { s->skipped_layers = {1, 0}; }, "skipped_layers"},
      {[](auto* s) { s->skipped_layers = {0, 0}; }, "skipped_layers"},
      {[](auto* s) { s->skipped_layers = {0, 1}; }, "skipped_layers"},
      {[](auto* s) { s->skipped_layers = {2}; }, "skipped_layers"},
      {[](auto* s) { s->shared_store = true; }, "shared_store"},
  };
  for (const auto& [damage, named] : cases) {
    Request request = MakeRequest(1, 4, 4);
    request.speculation.drafter = DrafterKind::kSelf;
    request.speculation.exit_layer = 2;
    damage(&request.speculation);
    const absl::Status status = f.loop.Submit(request, {}).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << named;
    EXPECT_NE(status.message().find(named), absl::string_view::npos) << status;
  }
}

TEST(ServingLoop, DrainingRefusesNewWorkAndFinishesTheOld) {
  Fixture f;
  const Request request = MakeRequest(1, 5, 40);
  Reader reader;
  auto channel = f.loop.Submit(request, reader.on_ready());
  ASSERT_TRUE(channel.ok());
  f.loop.Drain();
  f.loop.Drain();
  EXPECT_EQ(f.loop.Submit(MakeRequest(2, 5, 1), {}).status().code(),
            absl::StatusCode::kUnavailable);
  reader.Read(**channel);
  EXPECT_EQ(reader.tokens, Alone(request));
}

TEST(ServingLoop, ItsEndEndsEverythingWithUnavailable) {
  std::vector<std::shared_ptr<TokenChannel>> channels;
  {
    SchedulerConfig config = Config();
    config.channel_tokens = 1;  // nobody reads: all get stuck, running or not
    Fixture f(64, config);
    for (SeqId id = 1; id <= 20; ++id) {
      auto channel = f.loop.Submit(MakeRequest(id, 5, 40), {});
      ASSERT_TRUE(channel.ok());
      channels.push_back(*channel);
    }
  }
  for (const auto& channel : channels) {
    channel->Cancel();  // after the loop: harmless
    const auto finish = channel->Drain().finish;
    ASSERT_TRUE(finish.has_value());
    EXPECT_EQ(finish->status.code(), absl::StatusCode::kUnavailable);
  }
}

// Both would hang if the loop slept through them.
TEST(ServingLoop, WakesForACancelAndForADrain) {
  SchedulerConfig config = Config();
  config.channel_tokens = 2;
  config.slow_reader_limit = kNever;
  Fixture f(64, config);
  Reader cancelled;
  Reader drained;
  auto first = f.loop.Submit(MakeRequest(1, 5, 40), cancelled.on_ready());
  const Request request = MakeRequest(2, 5, 40);
  auto second = f.loop.Submit(request, drained.on_ready());
  ASSERT_TRUE(first.ok() && second.ok());
  cancelled.Read(**first, 1);
  (*first)->Cancel();
  cancelled.Read(**first);
  EXPECT_EQ(cancelled.finish->reason, FinishReason::kCancelled);
  drained.Read(**second);
  EXPECT_EQ(drained.tokens, Alone(request));
}

TEST(ServingLoop, WakesForADeadline) {
  SchedulerConfig config = Config();
  config.channel_tokens = 2;
  Fixture f(64, config);
  Request request = MakeRequest(1, 5, 40);
  request.deadline = f.clock.Now() + 20'000;
  auto channel = f.loop.Submit(request, {});
  ASSERT_TRUE(channel.ok());
  while (f.loop.in_flight() > 0) std::this_thread::yield();
  EXPECT_EQ((*channel)->Drain().finish->reason, FinishReason::kTimeLimit);
  EXPECT_GE(f.clock.Now(), request.deadline);
}

enum class Fault { kStatus, kException };
class ServingLoopFault : public ::testing::TestWithParam<Fault> {};

TEST_P(ServingLoopFault, EndsTheStepAndTurnsHealthOff) {
  SteadyClock clock;
  NullObserver observer;
  FakeEngine engine(Geometry(64), Hashed());
  if (GetParam() == Fault::kStatus) {
    engine.fault = absl::InternalError("gone");
  } else {
    engine.throws = true;
  }
  ServingLoop loop(Config(), &engine, &clock, &observer);
  Reader reader;
  auto channel = loop.Submit(MakeRequest(1, 5, 5), reader.on_ready());
  ASSERT_TRUE(channel.ok());
  reader.Read(**channel);
  EXPECT_EQ(reader.finish->reason, FinishReason::kError);
  EXPECT_EQ(reader.finish->status.code(), absl::StatusCode::kInternal);
  EXPECT_FALSE(loop.healthy());
  EXPECT_EQ(loop.Submit(MakeRequest(2, 5, 5), {}).status().code(), absl::StatusCode::kUnavailable);
}

INSTANTIATE_TEST_SUITE_P(Kinds, ServingLoopFault,
                         ::testing::Values(Fault::kStatus, Fault::kException));

// Waits in its first step, so that a test can fill the queue meanwhile.
class GatedEngine : public FakeEngine {
 public:
  using FakeEngine::FakeEngine;
  absl::Status Execute(const StepPlan& plan, StepResult* result) override {
    if (!std::exchange(passed_, true)) {
      entered.set_value();
      gate.get_future().wait();
    }
    return FakeEngine::Execute(plan, result);
  }
  std::promise<void> entered;
  std::promise<void> gate;

 private:
  bool passed_ = false;
};

TEST(ServingLoop, BoundsTheQueueByRequestsAndByTokens) {
  SchedulerConfig config = Config();
  config.max_running = 1;
  config.max_waiting = 3;
  config.max_waiting_tokens = 20;
  SteadyClock clock;
  NullObserver observer;
  GatedEngine engine(Geometry(64), Hashed());
  {
    ServingLoop loop(config, &engine, &clock, &observer);
    std::future<void> entered = engine.entered.get_future();
    ASSERT_TRUE(loop.Submit(MakeRequest(1, 5, 1), {}).ok());
    entered.wait();  // 1 runs and no longer counts as waiting
    const auto code = [&](const Request& request) {
      return loop.Submit(request, {}).status().code();
    };
    EXPECT_EQ(code(MakeRequest(2, 30, 1)), absl::StatusCode::kOk) << "an empty queue takes any";
    EXPECT_EQ(code(MakeRequest(3, 5, 1)), absl::StatusCode::kResourceExhausted);
    EXPECT_EQ(loop.in_flight(), 2);
    engine.gate.set_value();
    while (loop.in_flight() > 0) std::this_thread::yield();
    EXPECT_EQ(code(MakeRequest(4, 5, 1)), absl::StatusCode::kOk) << "the places are free again";
  }
}

// Many threads submit, read, stall and cancel; at the end every accepted request has had
// exactly one finish and only right tokens. Meant for the thread sanitizer above all.
TEST(ServingLoop, SurvivesManyThreads) {
  SchedulerConfig config = Config();
  config.channel_tokens = 4;
  config.max_waiting = 16;
  Fixture f(/*pages=*/40, config);
  std::atomic<SeqId> next_id{1};
  std::atomic<int> finished{0};
  std::atomic<int> accepted{0};
  const auto client = [&](uint32_t seed) {
    std::mt19937 random(seed);
    for (int i = 0; i < 60; ++i) {
      Request request = MakeRequest(next_id++, 1 + static_cast<int32_t>(random() % 30),
                                    1 + static_cast<int32_t>(random() % 20));
      request.tenant = std::to_string(seed % 3);
      request.priority = static_cast<int32_t>(random() % 2);
      const bool cancels = random() % 4 == 0;
      if (random() % 8 == 0)
        request.deadline = f.clock.Now() + static_cast<Micros>(random() % 2000);
      Reader reader;
      auto channel = f.loop.Submit(request, reader.on_ready());
      if (!channel.ok()) {
        EXPECT_EQ(channel.status().code(), absl::StatusCode::kResourceExhausted);
        std::this_thread::yield();
        continue;
      }
      ++accepted;
      if (cancels) {
        reader.Read(**channel, random() % 3);
        (*channel)->Cancel();
      }
      reader.Read(**channel);
      ++finished;
      const std::vector<TokenId> right = Alone(request);
      ASSERT_LE(reader.tokens.size(), right.size());
      EXPECT_TRUE(std::equal(reader.tokens.begin(), reader.tokens.end(), right.begin()));
      if (reader.finish->reason == FinishReason::kLength) {
        EXPECT_EQ(reader.tokens.size(), right.size());
      }
      EXPECT_TRUE(reader.finish->status.ok()) << reader.finish->status;
    }
  };
  std::vector<std::thread> threads;
  for (uint32_t seed = 1; seed <= 6; ++seed) threads.emplace_back(client, seed);
  for (std::thread& thread : threads) thread.join();
  f.loop.Drain();
  EXPECT_EQ(f.loop.in_flight(), 0);
  EXPECT_EQ(finished.load(), accepted.load());
  EXPECT_GT(accepted.load(), 0);
}

}  // namespace
}  // namespace skim
