// `auto` on a model, through the serving loop: the scheduler chooses who drafts, and what a request
// is told is what it is told without. Steps take as long as a cost table says, on a clock of the
// test's own, so that the choice is the same on every machine.
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <iterator>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "scheduler/serving_loop.h"
#include "tests/engine/golden.h"
#include "tests/engine/harness.h"
#include "tests/scheduler/null_observer.h"

namespace skim {
namespace {

constexpr int32_t kTokens = 120;

// Of a step, in milliseconds: for the first row in each format, and for each further one.
struct Costs {
  double bf16 = 20, int8 = 4, row = 0.2;
};

class TestClock final : public Clock {
 public:
  Micros Now() const override { return now_.load(); }
  void Advance(double milliseconds) { now_ += static_cast<Micros>(milliseconds * 1000); }

 private:
  std::atomic<Micros> now_{1};
};

class CostedExecutor final : public StepExecutor {
 public:
  CostedExecutor(StepExecutor* executor, const Costs& costs, TestClock* clock)
      : executor_(*executor), costs_(costs), clock_(*clock) {}

  absl::Status Execute(const StepPlan& plan, StepResult* result) override {
    double cost = costs_.row * plan.rows();
    bool seen[kWeightFormats] = {};
    for (const PlanSequence& sequence : plan.sequences) {
      bool& counted = seen[static_cast<size_t>(sequence.weight_format)];
      if (counted) continue;
      counted = true;
      cost += sequence.weight_format == WeightFormat::kInt8 ? costs_.int8 : costs_.bf16;
    }
    clock_.Advance(cost);
    return executor_.Execute(plan, result);
  }
  const KvGeometry& kv_geometry() const override { return executor_.kv_geometry(); }

 private:
  StepExecutor& executor_;
  const Costs costs_;
  TestClock& clock_;
};

class AutoOnAModel : public ::testing::Test {
 protected:
  struct Told {
    std::vector<SampledToken> tokens;
    Finish finish;
    const DraftCounts& by(size_t source) const { return finish.speculation.by_source[source]; }
  };

  // Says again and again the same.
  static Request Repeating() {
    Request request;
    for (int32_t i = 0; i < 40; ++i) request.prompt.push_back(3 + i % 8);
    request.sampling.temperature = 0;
    request.sampling.max_tokens = kTokens;
    return request;
  }
  // Sampled: its text repeats nothing.
  static Request Sampled(uint64_t seed) {
    Request request = Repeating();
    request.sampling.temperature = 0.8f;
    request.sampling.seed = seed;
    return request;
  }
  static SpeculationPolicy Auto() {
    SpeculationPolicy policy;
    policy.drafter = DrafterKind::kAuto;
    policy.max_drafts = 8;
    policy.draft_formats = {WeightFormat::kInt8};
    return policy;
  }

  // All at once.
  static std::vector<Told> Serve(std::vector<Request> requests, const Costs& costs) {
    HarnessOptions options;
    options.formats = {WeightFormat::kBf16, WeightFormat::kInt8};
    auto harness = EngineHarness::Load(GoldenPath("tiny-llama3"), options);
    EXPECT_TRUE(harness.ok()) << harness.status();
    TestClock clock;
    CostedExecutor executor(&(*harness)->executor(), costs, &clock);
    NullObserver observer;
    SchedulerConfig config;
    config.max_context = (*harness)->config().max_positions;
    config.answer_store_bytes = 1 << 20;
    ServingLoop loop(config, &executor, &clock, &observer);
    std::vector<std::shared_ptr<TokenChannel>> channels;
    for (size_t i = 0; i < requests.size(); ++i) {
      requests[i].id = i + 1;
      auto channel = loop.Submit(requests[i], {});
      EXPECT_TRUE(channel.ok()) << channel.status();
      channels.push_back(*channel);
    }
    std::vector<Told> out;
    for (const auto& channel : channels) {
      Told& told = out.emplace_back();
      for (bool ended = false; !ended;) {
        TokenChannel::Drained got = channel->Drain();
        std::ranges::move(got.tokens, std::back_inserter(told.tokens));
        ended = got.finish.has_value();
        if (ended) told.finish = *got.finish;
        if (!ended) std::this_thread::sleep_for(std::chrono::milliseconds(1));
      }
      EXPECT_TRUE(told.finish.status.ok()) << told.finish.status;
    }
    return out;
  }

  static void ExpectSame(const Told& want, const Told& got) {
    ASSERT_EQ(want.tokens.size(), got.tokens.size());
    for (size_t i = 0; i < want.tokens.size(); ++i) {
      ASSERT_EQ(want.tokens[i].token, got.tokens[i].token) << i;
    }
    EXPECT_EQ(want.finish.reason, got.finish.reason);
    EXPECT_EQ(got.finish.generated_tokens, kTokens);
  }
};

TEST_F(AutoOnAModel, TextThatRepeatsIsDraftedFromItselfAndStaysTheSame) {
  Request request = Repeating();
  const Told plain = Serve({request}, {}).at(0);
  request.speculation = Auto();
  request.speculation.draft_formats.clear();
  const Told told = Serve({request}, {}).at(0);
  ExpectSame(plain, told);
  EXPECT_GT(told.by(kTextSource).accepted, kTokens / 4);
  EXPECT_EQ(told.finish.speculation.total().drafted, told.by(kTextSource).drafted);
}

TEST_F(AutoOnAModel, TextThatDoesNotIsDraftedByTheModelInASmallerFormatAndStaysTheSame) {
  for (const uint64_t seed : {1u, 2u, 3u}) {
    Request request = Sampled(seed);
    const Told plain = Serve({request}, {}).at(0);
    request.speculation = Auto();
    const Told told = Serve({request}, {}).at(0);
    ExpectSame(plain, told);
    const DraftCounts& self = told.by(SelfSource(WeightFormat::kInt8));
    EXPECT_GT(self.accepted, kTokens / 4);
    EXPECT_GT(self.drafted, told.by(kTextSource).drafted);
  }
}

TEST_F(AutoOnAModel, NothingIsDraftedWhereRowsCostWhatStepsDo) {
  const Costs dear = {.bf16 = 0.1, .int8 = 0.1, .row = 20};
  Request request = Sampled(4);
  const Told plain = Serve({request}, dear).at(0);
  request.speculation = Auto();
  const Told told = Serve({request}, dear).at(0);
  ExpectSame(plain, told);
  // But for what it takes to notice.
  EXPECT_LT(told.finish.speculation.total().drafted, kTokens / 5);
}

TEST_F(AutoOnAModel, AmongOthersTheTextStaysTheSame) {
  std::vector<Request> requests = {Repeating(), Sampled(5), Sampled(6), Repeating()};
  requests[3].weight_format = WeightFormat::kInt8;
  std::vector<Told> plain;
  for (const Request& request : requests) plain.push_back(Serve({request}, {}).at(0));
  for (Request& request : requests) {
    request.speculation = Auto();
    request.speculation.shared_store = true;
  }
  requests[3].speculation.draft_formats.clear();  // none is smaller
  const std::vector<Told> told = Serve(requests, {});
  int32_t accepted = 0;
  for (size_t i = 0; i < requests.size(); ++i) {
    ExpectSame(plain[i], told[i]);
    accepted += told[i].finish.speculation.total().accepted;
  }
  EXPECT_GT(accepted, kTokens / 2);
}

}  // namespace
}  // namespace skim
