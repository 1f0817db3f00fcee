// Prompt pruning on tiny models, through the real scheduler: the sets and logits of a reference
// written from the paper's formulas, and the same bits whatever happens around a request.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <random>
#include <string>

#include "engine/json_file.h"
#include "kernels/cpu/isa.h"
#include "tests/engine/golden.h"
#include "tests/engine/scheduled_engine.h"

namespace skim {
namespace {

constexpr char kModel[] = "tiny-llama3";  // three layers

std::unique_ptr<EngineHarness> Load(HarnessOptions options) {
  auto harness = EngineHarness::Load(GoldenPath(kModel), options);
  EXPECT_TRUE(harness.ok()) << harness.status();
  return *std::move(harness);
}

std::vector<TokenId> RandomPrompt(int32_t length, uint32_t seed) {
  std::mt19937 rng(seed);
  std::vector<TokenId> prompt;
  for (int32_t i = 0; i < length; ++i) prompt.push_back(static_cast<TokenId>(rng() % 256));
  return prompt;
}

DecodeMode ModeOf(const std::string& name) {
  return name == "static" ? DecodeMode::kStatic
         : name == "lazy" ? DecodeMode::kLazy
                          : DecodeMode::kStrict;
}

class LazyOn : public ::testing::TestWithParam<std::string> {
 protected:
  HarnessOptions Options(HarnessOptions options = {}) const {
    options.isa = GetParam();
    if (options.boundaries.empty()) options.boundaries = {1, 2};
    return options;
  }
};

TEST_P(LazyOn, ChoosesTheTokensOfTheReferenceAndHasItsLogits) {
  const auto golden = ReadJsonObject(GoldenPath(kModel) + ".lazy.json", 16 << 20);
  ASSERT_TRUE(golden.ok()) << golden.status();
  for (const nlohmann::json& expected : (*golden)["cases"]) {
    SCOPED_TRACE(expected["name"].get<std::string>());
    HarnessOptions options = Options();
    options.boundaries = expected["boundaries"].get<std::vector<int32_t>>();
    for (const nlohmann::json& boundary : expected["heads"]) {
      std::vector<ScoreHead>& heads = options.score_heads.emplace_back();
      for (const nlohmann::json& head : boundary) heads.push_back({head[0], head[1]});
    }
    PrefillPolicy policy;
    policy.keep = expected["keep"].get<std::vector<float>>();
    policy.min_keep = expected["min_keep"];
    policy.rules.sinks = expected["sinks"];
    policy.rules.window = expected["window"];
    policy.rules.pool_radius = expected["pool_radius"];
    policy.decode = ModeOf(expected["decode"]);
    policy.revival_budget = expected["budget"];
    const auto prompt = expected["prompt"].get<std::vector<TokenId>>();
    const nlohmann::json& steps = expected["steps"];

    const auto harness = Load(options);
    ScheduledEngine engine(harness.get(), {.max_rows_per_step = 13});
    const SeqId id = engine.Submit(prompt, static_cast<int32_t>(steps.size()), policy);
    engine.RunToEnd();
    const ScheduledEngine::Client& client = engine.client(id);
    ASSERT_TRUE(client.finish && client.finish->status.ok());
    EXPECT_EQ(engine.most_runs_of_a_token_layer(), 1);

    // The prefill's cuts are made in a step each.
    const auto& chosen = steps[0]["chosen"];
    for (size_t c = 0; c < chosen.size(); ++c) {
      ASSERT_EQ(client.cuts[c][0].chosen, chosen[c].get<std::vector<int32_t>>()) << "cut " << c;
    }
    int64_t revived = 0;
    for (size_t i = 1; i < steps.size(); ++i) {
      const auto& cuts = steps[i]["chosen"];
      for (size_t c = 0; c < cuts.size(); ++c) {
        const CutResult& got = client.cuts[chosen.size() + i - 1][c];
        ASSERT_EQ(got.chosen, cuts[c].get<std::vector<int32_t>>()) << "step " << i << " cut " << c;
        ASSERT_EQ(got.revived, steps[i]["revived"][c].get<std::vector<int32_t>>());
        revived += static_cast<int64_t>(got.revived.size());
      }
    }
    EXPECT_EQ(client.finish->prefill.revived_tokens, revived);
    for (size_t i = 0; i < steps.size(); ++i) {
      ASSERT_EQ(client.tokens[i], steps[i]["token"].get<TokenId>()) << "step " << i;
      const auto position = static_cast<int32_t>(prompt.size() + i) - 1;
      const std::vector<float>& logits = engine.Logits(id, position);
      float squares = 0;
      for (size_t v = 0; v < logits.size(); ++v) {
        const float error = logits[v] - steps[i]["logits"][v].get<float>();
        ASSERT_NEAR(error, 0, 0.1) << "step " << i;
        squares += error * error / static_cast<float>(logits.size());
      }
      // Logits have a spread of about 3; sums in another order round to other bf16 neighbours.
      EXPECT_LT(std::sqrt(squares), 0.03) << "step " << i;
    }
  }
}

// What a request was told and the bits behind it.
struct Trace {
  std::vector<TokenId> tokens;
  std::vector<std::vector<float>> logits;
};

Trace Collect(const ScheduledEngine& engine, SeqId id, int32_t prompt_tokens) {
  Trace trace;
  trace.tokens = engine.client(id).tokens;
  for (size_t i = 0; i < trace.tokens.size(); ++i) {
    trace.logits.push_back(engine.Logits(id, prompt_tokens + static_cast<int32_t>(i) - 1));
  }
  return trace;
}

void ExpectSameBits(const Trace& a, const Trace& b, const std::string& what) {
  ASSERT_EQ(a.tokens, b.tokens) << what;
  ASSERT_EQ(a.logits.size(), b.logits.size()) << what;
  for (size_t i = 0; i < a.logits.size(); ++i) {
    ASSERT_EQ(std::memcmp(a.logits[i].data(), b.logits[i].data(),
                          a.logits[i].size() * sizeof(float)), 0)
        << what << ", token " << i;
  }
}

constexpr int32_t kPrompt = 150;
constexpr int32_t kGenerated = 20;

PrefillPolicy Policy(DecodeMode mode, std::vector<float> keep = {0.5f, 0.2f}) {
  PrefillPolicy policy;
  policy.keep = std::move(keep);
  policy.min_keep = 8;
  policy.decode = mode;
  policy.revival_budget = 3;
  policy.rules.window = 2;
  policy.rules.pinned = {{60, 63}};
  return policy;
}

Trace Alone(const HarnessOptions& options, SchedulerConfig config, const PrefillPolicy& policy) {
  const auto harness = Load(options);
  ScheduledEngine engine(harness.get(), config);
  const SeqId id = engine.Submit(RandomPrompt(kPrompt, 5), kGenerated, policy);
  engine.RunToEnd();
  EXPECT_EQ(engine.client(id).tokens.size(), static_cast<size_t>(kGenerated));
  return Collect(engine, id, kPrompt);
}

TEST_P(LazyOn, KeepingAllIsBitIdenticalToExact) {
  const Trace exact = Alone(Options(), {}, {});
  for (const DecodeMode mode : {DecodeMode::kStatic, DecodeMode::kLazy, DecodeMode::kStrict}) {
    // The share rounds up to the whole prompt: all of the machinery runs.
    const PrefillPolicy all = Policy(mode, {0.9999f, 0.9998f});
    ExpectSameBits(exact, Alone(Options(), {.max_rows_per_step = 40}, all), "keep all");
    ExpectSameBits(exact, Alone(Options(), {}, Policy(mode, {1, 1})), "no cut");
  }
}

TEST_P(LazyOn, TilesPagesAndThreadsDoNotMatter) {
  for (const DecodeMode mode : {DecodeMode::kStatic, DecodeMode::kLazy, DecodeMode::kStrict}) {
    const PrefillPolicy policy = Policy(mode);
    const Trace reference = Alone(Options(), {}, policy);
    for (const int32_t rows : {8, 37, 151}) {
      ExpectSameBits(reference, Alone(Options(), {.max_rows_per_step = rows}, policy),
                     "tiles of " + std::to_string(rows));
    }
    for (const int32_t page_tokens : {16, 64}) {
      ExpectSameBits(reference, Alone(Options({.page_tokens = page_tokens}), {}, policy), "pages");
    }
    ExpectSameBits(reference, Alone(Options({.threads = 3}), {.max_rows_per_step = 50}, policy),
                   "threads");
  }
}

TEST_P(LazyOn, OtherRequestsOfAnyKindDoNotMatter) {
  std::mt19937 rng(3);
  for (const DecodeMode mode : {DecodeMode::kStatic, DecodeMode::kLazy, DecodeMode::kStrict}) {
    const PrefillPolicy policy = Policy(mode);
    const Trace reference = Alone(Options(), {}, policy);
    const auto harness = Load(Options({.threads = 2, .kv_pages = 4096}));
    ScheduledEngine engine(harness.get(), {.max_rows_per_step = 64});
    const auto add = [&](uint32_t seed) {
      const int32_t length = 20 + static_cast<int32_t>(rng() % 100);
      const auto kind = static_cast<DecodeMode>(rng() % 3);
      engine.Submit(RandomPrompt(length, seed), 1 + static_cast<int32_t>(rng() % 30),
                    rng() % 2 == 0 ? PrefillPolicy() : Policy(kind, {0.7f, 0.3f}));
    };
    for (uint32_t i = 0; i < 5; ++i) add(100 + i);
    for (int i = 0; i < 4; ++i) engine.Step();
    const SeqId id = engine.Submit(RandomPrompt(kPrompt, 5), kGenerated, policy);
    for (uint32_t i = 0; i < 8; ++i) {
      add(200 + i);
      engine.Step();
    }
    engine.RunToEnd();
    ExpectSameBits(reference, Collect(engine, id, kPrompt), "among others");
    EXPECT_EQ(engine.most_runs_of_a_token_layer(), 1);
    EXPECT_EQ(engine.scheduler().cache().ledger().owned(), 0);
  }
}

// Pools too small for both requests: the one that came later is preempted, in its prefill or
// later. Where it lost its hidden rows before, for want of memory, it must differ.
TEST_P(LazyOn, PreemptionDoesNotMatter) {
  for (const DecodeMode mode : {DecodeMode::kStatic, DecodeMode::kLazy, DecodeMode::kStrict}) {
    const PrefillPolicy policy = Policy(mode);
    const Trace reference = Alone(Options(), {}, policy);
    int preempted = 0;
    for (int32_t pages = 48; pages <= 72 && preempted < 2; pages += 2) {
      const auto harness = Load(Options({.page_tokens = 16, .kv_pages = pages}));
      ScheduledEngine engine(harness.get(), {.max_rows_per_step = 8});
      engine.Submit(RandomPrompt(60, 21), 120);
      const SeqId id = engine.Submit(RandomPrompt(kPrompt, 5), kGenerated, policy);
      engine.RunToEnd();
      const Finish& finish = *engine.client(id).finish;
      if (!finish.status.ok() || finish.prefill.hidden_dropped) continue;
      SCOPED_TRACE(std::to_string(static_cast<int>(mode)) + " pages " + std::to_string(pages));
      ExpectSameBits(reference, Collect(engine, id, kPrompt), "after preemption");
      EXPECT_EQ(engine.most_runs_of_a_token_layer(), 1);
      preempted += finish.preemptions > 0;
    }
    EXPECT_GT(preempted, 0);
  }
}

std::vector<std::string> Isas() {
  std::vector<std::string> names;
  for (Isa isa : SupportedIsas()) names.emplace_back(IsaName(isa));
  return names;
}

INSTANTIATE_TEST_SUITE_P(Paths, LazyOn, ::testing::ValuesIn(Isas()),
                         [](const auto& info) { return info.param; });

}  // namespace
}  // namespace skim
