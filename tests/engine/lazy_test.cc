// Prompt pruning on tiny models, through the real scheduler: the sets and logits of a reference
// written from the paper's formulas, and the same bits whatever happens around a request.
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
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

std::vector<TokenId> Joined(std::vector<TokenId> a, const std::vector<TokenId>& b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}

constexpr std::array kModes = {DecodeMode::kStatic, DecodeMode::kLazy, DecodeMode::kStrict,
                               DecodeMode::kPhantom, DecodeMode::kLate};

DecodeMode ModeOf(const std::string& name) {
  constexpr std::array kNames = {"static", "lazy", "strict", "phantom", "late"};
  return kModes[static_cast<size_t>(std::ranges::find(kNames, name) - kNames.begin())];
}

class ReferenceOn : public ::testing::TestWithParam<std::string> {};

TEST_P(ReferenceOn, ChoosesTheSameTokensAndHasItsLogits) {
  const auto golden = ReadJsonObject(GoldenPath(kModel) + ".lazy.json", 16 << 20);
  ASSERT_TRUE(golden.ok()) << golden.status();
  for (const nlohmann::json& expected : (*golden)["cases"]) {
    SCOPED_TRACE(expected["name"].get<std::string>());
    HarnessOptions options{.isa = GetParam()};
    options.boundaries = expected["boundaries"].get<std::vector<int32_t>>();
    for (const nlohmann::json& boundary : expected["heads"]) {
      std::vector<ScoreHead>& heads = options.score_heads.emplace_back();
      for (const nlohmann::json& head : boundary) heads.push_back({head[0], head[1]});
    }
    for (const nlohmann::json& boundary : expected["scouts"]) {
      Scouts& scouts = options.scouts.emplace_back();
      if (boundary.is_null()) continue;
      scouts.window = boundary["window"];
      for (const nlohmann::json& head : boundary["heads"]) {
        scouts.heads.push_back({head[0], head[1]});
      }
    }
    PrefillPolicy policy;
    policy.keep = expected["keep"].get<std::vector<float>>();
    policy.min_keep = expected["min_keep"];
    policy.rules.sinks = expected["sinks"];
    policy.rules.window = expected["window"];
    policy.rules.pool_radius = expected["pool_radius"];
    policy.decode = ModeOf(expected["decode"]);
    policy.revival_budget = expected["budget"];
    policy.look_back = expected["look_back"];
    const auto prompt = expected["prompt"].get<std::vector<TokenId>>();
    const nlohmann::json& steps = expected["steps"];

    const auto harness = Load(options);
    ScheduledEngine engine(harness.get(), {.max_rows_per_step = 13});
    const SeqId id = engine.Submit(prompt, static_cast<int32_t>(steps.size()), policy);
    engine.RunToEnd();
    const ScheduledEngine::Client& client = engine.client(id);
    ASSERT_TRUE(client.finish && client.finish->status.ok());
    const int32_t looks = policy.looks_back() ? LazyProgress::kLooks : 0;
    EXPECT_EQ(engine.most_runs_of_a_token_layer(), 1 + looks);

    // The prefill's cuts are made in a step each.
    const auto& chosen = steps[0]["chosen"];
    for (size_t c = 0; c < chosen.size(); ++c) {
      ASSERT_EQ(client.cuts[c][0].chosen, chosen[c].get<std::vector<int32_t>>()) << "cut " << c;
    }
    std::vector<nlohmann::json> behind(steps[0]["looks"].begin(), steps[0]["looks"].end());
    ASSERT_EQ(std::ssize(behind), looks);
    behind.insert(behind.end(), steps.begin() + 1, steps.end());
    for (size_t i = 0; i < behind.size(); ++i) {
      const auto& cuts = behind[i]["chosen"];
      for (size_t c = 0; c < cuts.size(); ++c) {
        const CutResult& got = client.cuts[chosen.size() + i][c];
        ASSERT_EQ(got.chosen, cuts[c].get<std::vector<int32_t>>()) << "step " << i << " cut " << c;
        ASSERT_EQ(got.revived, behind[i]["revived"][c].get<std::vector<int32_t>>());
      }
    }
    int64_t stages_run = 0;
    for (const nlohmann::json& step : steps) stages_run += step["stages_run"].get<int64_t>();
    EXPECT_EQ(client.finish->prefill.revived_tokens, stages_run);
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

// With and without scouts at the first boundary.
struct Pruning {
  std::string isa;
  bool scouts;

  std::string Name() const { return isa + (scouts ? "WithScouts" : ""); }
  friend void PrintTo(const Pruning& pruning, std::ostream* out) { *out << pruning.Name(); }
};

constexpr int32_t kScouts = 5;

class LazyOn : public ::testing::TestWithParam<Pruning> {
 protected:
  HarnessOptions Options(HarnessOptions options = {}) const {
    options.isa = GetParam().isa;
    options.boundaries = {1, 2};
    if (GetParam().scouts) options.scouts = {{.window = kScouts, .heads = {{2, 1}, {1, 0}}}, {}};
    return options;
  }
};

// How it decodes; late, it may look back first.
struct Decoding {
  DecodeMode mode;
  int32_t look_back = 0;

  Decoding(DecodeMode mode, int32_t look_back = 0)  // NOLINT: a mode is one
      : mode(mode), look_back(look_back) {}
  // Of the prompt's last token, which alone runs a layer more than once.
  int64_t MostRuns() const { return look_back > 0 ? 1 + LazyProgress::kLooks : 1; }
  friend void PrintTo(const Decoding& decoding, std::ostream* out) {
    *out << static_cast<int>(decoding.mode) << " looking back at " << decoding.look_back;
  }
};

std::vector<Decoding> Decodings() {
  std::vector<Decoding> all(kModes.begin(), kModes.end());
  all.emplace_back(DecodeMode::kLate, 5);
  return all;
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

PrefillPolicy Policy(const Decoding& decoding, std::vector<float> keep = {0.5f, 0.2f}) {
  PrefillPolicy policy;
  policy.keep = std::move(keep);
  policy.min_keep = 8;
  policy.decode = decoding.mode;
  policy.revival_budget = 3;
  policy.look_back = decoding.look_back;
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
  for (const Decoding& mode : Decodings()) {
    // The share rounds up to the whole prompt: all of the machinery runs.
    const PrefillPolicy all = Policy(mode, {0.9999f, 0.9998f});
    ExpectSameBits(exact, Alone(Options(), {.max_rows_per_step = 40}, all), "keep all");
    ExpectSameBits(exact, Alone(Options(), {}, Policy(mode, {1, 1})), "no cut");
  }
}

TEST_P(LazyOn, TilesPagesAndThreadsDoNotMatter) {
  for (const Decoding& mode : Decodings()) {
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
  for (const Decoding& mode : Decodings()) {
    const PrefillPolicy policy = Policy(mode);
    const Trace reference = Alone(Options(), {}, policy);
    const auto harness = Load(Options({.threads = 2, .kv_pages = 4096}));
    ScheduledEngine engine(harness.get(), {.max_rows_per_step = 64});
    const auto add = [&](uint32_t seed) {
      const int32_t length = 20 + static_cast<int32_t>(rng() % 100);
      const auto kind = kModes[rng() % kModes.size()];
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
    EXPECT_EQ(engine.most_runs_of_a_token_layer(), mode.MostRuns());
    EXPECT_EQ(engine.scheduler().cache().ledger().owned(), 0);
  }
}

// In every KV format, as one scale serves a vector and other rows are not in it.
TEST_P(LazyOn, PhantomsAreWrittenInTheFormatOfTheirPages) {
  const PrefillPolicy policy = Policy(DecodeMode::kPhantom);
  std::vector<Trace> by_format;
  for (const KvFormat format : {KvFormat::kBf16, KvFormat::kInt8, KvFormat::kFp8}) {
    const Trace reference = Alone(Options({.kv_format = format}), {}, policy);
    ExpectSameBits(reference,
                   Alone(Options({.threads = 2, .page_tokens = 16, .kv_format = format}),
                         {.max_rows_per_step = 29}, policy),
                   "tiles and pages");
    for (const Trace& other : by_format) EXPECT_NE(other.logits, reference.logits);
    by_format.push_back(reference);
  }
}

// They are seen, take no row, and leave the pages of an exact sequence and no hidden row.
TEST_P(LazyOn, AfterThePrefillPhantomsHaveTheMemoryOfAnExactSequence) {
  const auto harness = Load(Options({.page_tokens = 16}));
  ScheduledEngine engine(harness.get(), {.max_rows_per_step = 64, .prefix_cache = false});
  const SeqId id =
      engine.Submit(RandomPrompt(kPrompt, 5), kGenerated, Policy(DecodeMode::kPhantom));
  while (engine.client(id).tokens.size() < 3) ASSERT_TRUE(engine.Step());
  const Sequence& sequence = *engine.scheduler().running().at(0);
  const KvCache& cache = engine.scheduler().cache();
  EXPECT_EQ(sequence.kv.hidden_pages(), 0);
  EXPECT_EQ(sequence.kv.pages(), cache.PagesFor(kPrompt + 2));
  engine.RunToEnd();

  const PrefillReport& report = engine.client(id).finish->prefill;
  EXPECT_EQ(report.decode, DecodeMode::kPhantom);
  EXPECT_EQ(report.predicted_tokens, kPrompt - report.kept_tokens);
  EXPECT_EQ(report.revived_tokens, 0);
  for (const int32_t layer : {0, 1, 2}) {
    EXPECT_EQ(engine.TokensRun(id, layer), report.segment_tokens[layer] + kGenerated - 1);
  }
  EXPECT_GT(report.segment_tokens[0], report.segment_tokens[1]);
  EXPECT_GT(report.segment_tokens[1], report.segment_tokens[2]);
  const Trace without = Alone(Options(), {}, Policy(DecodeMode::kStatic));
  EXPECT_NE(Collect(engine, id, kPrompt).logits, without.logits);
}

// Until a phantom is revived nothing differs, and those that are take nobody's place.
TEST_P(LazyOn, LateRevivalBeginsWithPhantomsAndTakesNoMoreKeysAndValues) {
  PrefillPolicy policy = Policy(DecodeMode::kLate);
  const Trace phantom = Alone(Options(), {}, Policy(DecodeMode::kPhantom));
  const Trace late = Alone(Options(), {}, policy);
  for (size_t i = 0; i < 2; ++i) EXPECT_EQ(late.logits[i], phantom.logits[i]);
  EXPECT_NE(late.logits, phantom.logits);
  policy.revival_budget = 0;
  ExpectSameBits(phantom, Alone(Options(), {}, policy), "nobody is revived");

  // In the end everybody is.
  policy.revival_budget = 32;
  policy.keep = {0.9f, 0.8f};
  const auto harness = Load(Options({.page_tokens = 16}));
  ScheduledEngine engine(harness.get(), {.max_rows_per_step = 64, .prefix_cache = false});
  const SeqId id = engine.Submit(RandomPrompt(kPrompt, 5), kGenerated, policy);
  while (engine.client(id).tokens.size() + 1 < kGenerated) ASSERT_TRUE(engine.Step());
  const Sequence& sequence = *engine.scheduler().running().at(0);
  EXPECT_EQ(sequence.lazy->SegmentTokens(), (std::vector<int32_t>(3, kPrompt)));
  EXPECT_EQ(sequence.kv.hidden_pages(), 0);
  EXPECT_EQ(sequence.kv.pages(), engine.scheduler().cache().PagesFor(kPrompt + kGenerated - 2));
  engine.RunToEnd();
  EXPECT_EQ(engine.most_runs_of_a_token_layer(), 1);
}

// Before the first token is drawn; those that follow revive as ever.
TEST_P(LazyOn, WhoeverLooksBackSeesWhatItHasFoundFromTheFirstTokenOn) {
  const auto run = [&](int32_t look_back, int32_t budget, int32_t tokens) {
    PrefillPolicy policy = Policy({DecodeMode::kLate, look_back});
    policy.revival_budget = budget;
    const auto harness = Load(Options({.page_tokens = 16}));
    ScheduledEngine engine(harness.get(), {.max_rows_per_step = 8, .prefix_cache = false});
    const SeqId id = engine.Submit(RandomPrompt(kPrompt, 5), tokens, policy);
    engine.RunToEnd();
    return std::pair(Collect(engine, id, kPrompt), engine.client(id).finish->prefill);
  };
  const auto [without, nobody] = run(0, 3, 1);
  EXPECT_EQ(nobody.revived_tokens, 0);
  const auto [with, found] = run(8, 3, 1);
  EXPECT_GT(found.revived_tokens, 0);
  EXPECT_NE(with.logits[0], without.logits[0]);
  EXPECT_LT(found.token_layers_saved, nobody.token_layers_saved);
  // What decoding revives is beside it.
  const auto [alone, same] = run(8, 0, kGenerated);
  EXPECT_EQ(alone.logits[0], with.logits[0]);
  EXPECT_EQ(same.revived_tokens, found.revived_tokens);
  const auto [both, more] = run(8, 3, kGenerated);
  EXPECT_GT(more.revived_tokens, found.revived_tokens);
  EXPECT_NE(both.logits, alone.logits);
}

// The last block is written again while another sequence could read it.
TEST_P(LazyOn, TheBlockOfTheTokenThatLooksBackIsNotShared) {
  constexpr int32_t kBlock = 16, kLength = 10 * kBlock;
  const std::vector<TokenId> prompt = RandomPrompt(kLength, 5);
  for (const int32_t look_back : {0, 5}) {
    const auto harness = Load(Options({.page_tokens = kBlock}));
    ScheduledEngine engine(harness.get(), {});
    engine.Submit(prompt, 2, Policy({DecodeMode::kLate, look_back}));
    engine.RunToEnd();
    const SeqId id = engine.Submit(Joined(prompt, RandomPrompt(40, 9)), 2, Policy(DecodeMode::kLate));
    engine.RunToEnd();
    EXPECT_EQ(engine.client(id).finish->cached_tokens, kLength - (look_back > 0 ? kBlock : 0));
  }
}

// The same prompt in every format at once, pruned and exact: each as if it were alone, and nobody
// takes another format's blocks from the cache.
TEST_P(LazyOn, OtherWeightFormatsDoNotMatter) {
  const HarnessOptions options = Options(
      {.kv_pages = 4096, .formats = {WeightFormat::kBf16, WeightFormat::kInt8, WeightFormat::kInt4}});
  for (const DecodeMode mode : {DecodeMode::kLazy, DecodeMode::kPhantom}) {
    const PrefillPolicy policy = Policy(mode);
    std::vector<Trace> alone;
    for (const WeightFormat format : options.formats) {
      const auto harness = Load(options);
      ScheduledEngine engine(harness.get(), {});
      const SeqId id = engine.Submit(RandomPrompt(kPrompt, 5), kGenerated, policy, format);
      engine.RunToEnd();
      alone.push_back(Collect(engine, id, kPrompt));
    }
    EXPECT_NE(alone[0].logits, alone[1].logits);
    const auto harness = Load(options);
    ScheduledEngine engine(harness.get(), {.max_rows_per_step = 64});
    std::vector<SeqId> ids;
    for (int round = 0; round < 2; ++round) {  // the second meets what the first has left
      for (const WeightFormat format : options.formats) {
        ids.push_back(engine.Submit(RandomPrompt(kPrompt, 5), kGenerated, policy, format));
        engine.Submit(RandomPrompt(kPrompt, 5), 2, {}, format);
      }
      engine.RunToEnd();
    }
    for (size_t i = 0; i < ids.size(); ++i) {
      SCOPED_TRACE("request " + std::to_string(i));
      EXPECT_EQ(engine.client(ids[i]).finish->cached_tokens, i < 3 ? 0 : 128);
      ExpectSameBits(alone[i % 3], Collect(engine, ids[i], kPrompt), "among other formats");
    }
    EXPECT_EQ(engine.most_runs_of_a_token_layer(), 1);
  }
}

// Pools too small for both requests: the one that came later is preempted, in its prefill or
// later. Where it lost its hidden rows before, for want of memory, it must differ.
TEST_P(LazyOn, PreemptionDoesNotMatter) {
  for (const Decoding& mode : Decodings()) {
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
      SCOPED_TRACE(::testing::PrintToString(mode) + " pages " + std::to_string(pages));
      ExpectSameBits(reference, Collect(engine, id, kPrompt), "after preemption");
      EXPECT_EQ(engine.most_runs_of_a_token_layer(), mode.MostRuns());
      preempted += finish.preemptions > 0;
    }
    // Who has found room for scouts has room to grow later.
    EXPECT_EQ(preempted > 0, !GetParam().scouts || SeesPhantoms(mode.mode));
  }
}

// Right after its first cut somebody comes who takes all memory: the choice is kept, and whoever
// made it, rows of the stage below or scouts, does not score again.
TEST_P(LazyOn, WhoIsPreemptedAfterACutGoesOnWithTheTokensThatWereChosen) {
  for (const Decoding& mode : Decodings()) {
    SCOPED_TRACE(::testing::PrintToString(mode));
    const PrefillPolicy policy = Policy(mode);
    const Trace reference = Alone(Options(), {}, policy);
    const auto harness = Load(Options({.page_tokens = 16, .kv_pages = 140}));
    ScheduledEngine engine(harness.get(), {.max_rows_per_step = 3, .prefix_cache = false});
    const SeqId id = engine.Submit(RandomPrompt(kPrompt, 5), kGenerated, policy);
    while (engine.client(id).cuts.empty()) ASSERT_TRUE(engine.Step());
    const KvCache& cache = engine.scheduler().cache();
    const Sequence& sequence = *engine.scheduler().running().at(0);
    const int64_t missing =
        cache.Missing(sequence.lazy->CaughtUp(sequence.total(), 0), sequence.kv);
    Request all;
    const int64_t blocks = (cache.Available() - missing) / cache.pages_per_block();
    all.prompt = RandomPrompt(static_cast<int32_t>(blocks) * 16 - 1, 7);
    all.sampling.max_tokens = 60;
    all.priority = 1;
    engine.Submit(std::move(all));
    engine.RunToEnd();
    const Finish& finish = *engine.client(id).finish;
    ASSERT_TRUE(finish.status.ok()) << finish.status;
    EXPECT_EQ(finish.preemptions, 1);
    ExpectSameBits(reference, Collect(engine, id, kPrompt), "after preemption");
    EXPECT_EQ(engine.most_runs_of_a_token_layer(), mode.MostRuns());
    EXPECT_EQ(engine.scout_rows(), GetParam().scouts ? policy.rules.sinks + kScouts : 0);
  }
}

// A chat's second turn: the first one's prompt, what was generated, and more.
TEST_P(LazyOn, ASecondTurnComputesOnlyWhatIsNewBelowTheFirstCut) {
  for (const Decoding& mode : Decodings()) {
    SCOPED_TRACE(::testing::PrintToString(mode));
    const PrefillPolicy policy = Policy(mode);
    const auto harness = Load(Options({.page_tokens = 16}));
    ScheduledEngine engine(harness.get(), {.max_rows_per_step = 64});
    const SeqId first = engine.Submit(RandomPrompt(kPrompt, 5), kGenerated, policy);
    engine.RunToEnd();
    EXPECT_EQ(engine.client(first).finish->cached_tokens, 0);
    const std::vector<TokenId> turn = Joined(
        Joined(RandomPrompt(kPrompt, 5), engine.client(first).tokens), RandomPrompt(40, 9));
    const auto length = static_cast<int32_t>(turn.size());
    const SeqId second = engine.Submit(turn, kGenerated, policy);
    engine.RunToEnd();

    const Finish& finish = *engine.client(second).finish;
    constexpr int32_t kCached = kPrompt / 16 * 16;  // whole blocks of the first prompt
    EXPECT_EQ(finish.cached_tokens, kCached);
    EXPECT_EQ(finish.prefill.segment_tokens[0], length - kCached);
    EXPECT_EQ(engine.TokensRun(second, 0), length - kCached + kGenerated - 1);
    EXPECT_EQ(engine.most_runs_of_a_token_layer(), mode.MostRuns());
    EXPECT_EQ(engine.scheduler().cache().ledger().owned(), 0);

    const auto fresh = Load(Options({.page_tokens = 16}));
    ScheduledEngine without(fresh.get(), {.prefix_cache = false});
    const SeqId alone = without.Submit(turn, kGenerated, policy);
    without.RunToEnd();
    EXPECT_EQ(without.client(alone).finish->cached_tokens, 0);
    ExpectSameBits(Collect(without, alone, length), Collect(engine, second, length), "second turn");
    const PrefillReport& uncached = without.client(alone).finish->prefill;
    EXPECT_EQ(finish.prefill.token_layers_saved, uncached.token_layers_saved);
    EXPECT_EQ(finish.prefill.kept_tokens, uncached.kept_tokens);
  }
}

// What lies below the first cut does not depend on what is kept above it, nor on how it decodes.
TEST_P(LazyOn, PoliciesWithTheSameFirstCutShareAndOthersDoNot) {
  const auto cached = [&](const PrefillPolicy& filler, const PrefillPolicy& user) {
    const auto harness = Load(Options({.page_tokens = 16}));
    ScheduledEngine engine(harness.get(), {});
    engine.Submit(RandomPrompt(kPrompt, 5), 2, filler);
    engine.RunToEnd();
    const SeqId id = engine.Submit(RandomPrompt(kPrompt, 5), kGenerated, user);
    engine.RunToEnd();
    const Trace reference = Alone(Options({.page_tokens = 16}), {}, user);
    ExpectSameBits(reference, Collect(engine, id, kPrompt), "after another policy");
    return engine.client(id).finish->cached_tokens;
  };
  const PrefillPolicy lazy = Policy(DecodeMode::kLazy);
  const PrefillPolicy later = Policy(DecodeMode::kLazy, {1, 0.3f});  // its first cut is higher up
  EXPECT_EQ(cached(lazy, Policy(DecodeMode::kStrict, {0.9f, 0.9f})), 144);
  EXPECT_EQ(cached(later, Policy(DecodeMode::kStatic, {1, 0.5f})), 144);
  EXPECT_EQ(cached(lazy, Policy(DecodeMode::kPhantom)), 144);
  EXPECT_EQ(cached(Policy(DecodeMode::kPhantom), lazy), 144);
  EXPECT_EQ(cached(lazy, later), 0);
  EXPECT_EQ(cached(later, lazy), 0);
  EXPECT_EQ(cached({}, lazy), 0);
  EXPECT_EQ(cached(lazy, {}), 0);
}

// They choose otherwise than the rows below the cut, once in the life of a request, and the K/V of
// their step is gone before the next.
TEST_P(LazyOn, ScoutsChooseOnceAndLeaveNothingButTheChoice) {
  const PrefillPolicy policy = Policy(DecodeMode::kStatic);
  const auto harness = Load(Options({.page_tokens = 16}));
  ScheduledEngine engine(harness.get(), {.max_rows_per_step = 64, .prefix_cache = false});
  const SeqId id = engine.Submit(RandomPrompt(kPrompt, 5), kGenerated, policy);
  const KvCache& cache = engine.scheduler().cache();
  while (engine.client(id).cuts.empty()) ASSERT_TRUE(engine.Step());
  // The first stage's K/V and hidden rows; above, nothing has run so far.
  KvExtent below;
  below.slots = {kPrompt, 0, 0};
  below.hidden_pages = static_cast<int32_t>((kPrompt + cache.geometry().hidden_rows_per_page - 1) /
                                            cache.geometry().hidden_rows_per_page);
  EXPECT_EQ(cache.ledger().owned(), cache.PagesFor(below));
  engine.RunToEnd();
  EXPECT_EQ(engine.scout_rows(), GetParam().scouts ? policy.rules.sinks + kScouts : 0);
  EXPECT_EQ(engine.most_runs_of_a_token_layer(), 1);

  HarnessOptions otherwise = Options();
  if (GetParam().scouts) {
    otherwise.scouts = {};
  } else {
    otherwise.scouts = {{.window = kScouts, .heads = {{1, 0}}}, {}};
  }
  EXPECT_NE(Alone(otherwise, {}, policy).logits, Collect(engine, id, kPrompt).logits);
}

std::vector<std::string> Isas() {
  std::vector<std::string> names;
  for (Isa isa : SupportedIsas()) names.emplace_back(IsaName(isa));
  return names;
}

std::vector<Pruning> Prunings() {
  std::vector<Pruning> all;
  for (const std::string& isa : Isas()) {
    for (const bool scouts : {false, true}) all.push_back({isa, scouts});
  }
  return all;
}

INSTANTIATE_TEST_SUITE_P(Paths, ReferenceOn, ::testing::ValuesIn(Isas()),
                         [](const auto& info) { return info.param; });
INSTANTIATE_TEST_SUITE_P(Paths, LazyOn, ::testing::ValuesIn(Prunings()),
                         [](const auto& info) { return info.param.Name(); });

}  // namespace
}  // namespace skim
