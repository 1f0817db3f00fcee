// Speculation on a tiny model, through the real scheduler: with drafts from anywhere, right or
// wrong, a request is told what it is told without them, with the same bits behind it. The
// tests that follow the greedy ones are named after the faults of other servers.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <random>
#include <string>

#include "kernels/cpu/isa.h"
#include "tests/engine/golden.h"
#include "tests/engine/scheduled_engine.h"
#include "tests/engine/toy_draft_head.h"
#include "tests/engine/toy_draft_model.h"

namespace skim {
namespace {

constexpr char kModel[] = "tiny-llama3";  // three layers, 256 tokens
constexpr int32_t kLayers = 3;
constexpr int32_t kVocabulary = 256;
constexpr int32_t kGenerated = 40;

std::string ModelPath() {
  static ModelWithDraftHead model(kModel);
  static const bool written = [] {
    model.FillWithNoise(/*inner=*/40, /*stride=*/2, /*seed=*/1);
    model.Write();
    // Exit 2 has none.
    model.WriteBeside(kExitAdapterFile, NoisyAdapters(model.config(), {1}, /*seed=*/2));
    return true;
  }();
  EXPECT_TRUE(written);
  return model.path();
}

// Two of the model's three layers, in int8: right now and then, never by being the same.
std::string DraftModelPath() {
  static ToyDraftModel model;
  static const bool written = [] {
    model.TakeFirstLayers(kModel, 2);
    return true;
  }();
  EXPECT_TRUE(written);
  return model.path();
}

std::unique_ptr<EngineHarness> Load(const HarnessOptions& options) {
  auto harness = EngineHarness::Load(ModelPath(), options);
  EXPECT_TRUE(harness.ok()) << harness.status();
  return *std::move(harness);
}

HarnessOptions AllFormats(HarnessOptions options = {}) {
  options.formats = {WeightFormat::kBf16, WeightFormat::kFp8, WeightFormat::kInt8,
                     WeightFormat::kInt4};
  options.kv_pages = 4096;
  options.draft_model = DraftModelPath();
  return options;
}

// Repeats itself, so that looking up finds something.
std::vector<TokenId> Prompt(int32_t length, uint32_t seed) {
  std::mt19937 rng(seed);
  std::vector<TokenId> prompt;
  for (int32_t i = 0; i < length; ++i) {
    prompt.push_back(i >= 20 && i % 40 < 20 ? prompt[i - 20] : static_cast<TokenId>(rng() % 256));
  }
  return prompt;
}

Request Greedy(int32_t prompt_tokens = 60, uint32_t seed = 5) {
  Request request;
  request.prompt = Prompt(prompt_tokens, seed);
  request.sampling.temperature = 0;
  request.sampling.max_tokens = kGenerated;
  return request;
}

SpeculationPolicy Lookup(int32_t drafts = 6) {
  SpeculationPolicy policy;
  policy.drafter = DrafterKind::kLookup;
  policy.max_drafts = drafts;
  policy.min_ngram = 1;
  return policy;
}

SpeculationPolicy Head(int32_t drafts = 4) {
  SpeculationPolicy policy;
  policy.drafter = DrafterKind::kHead;
  policy.max_drafts = drafts;
  return policy;
}

SpeculationPolicy ByDraftModel(int32_t drafts = 4) {
  SpeculationPolicy policy;
  policy.drafter = DrafterKind::kDraftModel;
  policy.max_drafts = drafts;
  return policy;
}

SpeculationPolicy Self(int32_t exit_layer, WeightFormat format, int32_t drafts = 4,
                       std::vector<int16_t> skipped = {}) {
  SpeculationPolicy policy;
  policy.skipped_layers = std::move(skipped);
  policy.drafter = DrafterKind::kSelf;
  policy.max_drafts = drafts;
  policy.exit_layer = exit_layer;
  policy.draft_format = format;
  return policy;
}

PrefillPolicy Pruned(DecodeMode mode = DecodeMode::kStatic) {
  PrefillPolicy policy;
  policy.keep = {0.6f};
  policy.min_keep = 8;
  policy.decode = mode;
  return policy;
}

// What a request was told and the bits behind it.
struct Trace {
  std::vector<SampledToken> drawn;
  std::vector<std::vector<float>> logits;
  Finish finish;

  std::vector<TokenId> tokens() const {
    std::vector<TokenId> out;
    for (const SampledToken& token : drawn) out.push_back(token.token);
    return out;
  }
};

Trace Collect(const ScheduledEngine& engine, SeqId id, const Request& request) {
  Trace trace;
  const ScheduledEngine::Client& client = engine.client(id);
  trace.drawn = client.drawn;
  EXPECT_TRUE(client.finish && client.finish->status.ok());
  if (client.finish) trace.finish = *client.finish;
  const auto first = static_cast<int32_t>(request.prompt.size()) - 1;
  for (size_t i = 0; i < trace.drawn.size(); ++i) {
    trace.logits.push_back(engine.Logits(id, first + static_cast<int32_t>(i)));
  }
  return trace;
}

Trace Alone(const HarnessOptions& options, const Request& request,
            ScheduledEngine::ChangeDraft change = {}) {
  const auto harness = Load(options);
  ScheduledEngine engine(harness.get(), {});
  engine.SetChangeDraft(std::move(change));
  const SeqId id = engine.Submit(request);
  engine.RunToEnd();
  EXPECT_EQ(engine.scheduler().cache().ledger().owned(), 0);
  return Collect(engine, id, request);
}

void ExpectSame(const Trace& want, const Trace& got, const std::string& what) {
  ASSERT_EQ(want.tokens(), got.tokens()) << what;
  EXPECT_EQ(want.finish.reason, got.finish.reason) << what;
  EXPECT_EQ(want.finish.generated_tokens, got.finish.generated_tokens) << what;
  for (size_t i = 0; i < want.drawn.size(); ++i) {
    ASSERT_EQ(std::memcmp(want.logits[i].data(), got.logits[i].data(),
                          want.logits[i].size() * sizeof(float)),
              0)
        << what << ", token " << i;
    const SampledToken &a = want.drawn[i], &b = got.drawn[i];
    ASSERT_EQ(a.logprob, b.logprob) << what << ", token " << i;
    ASSERT_EQ(a.top.size(), b.top.size()) << what << ", token " << i;
    for (size_t t = 0; t < a.top.size(); ++t) {
      ASSERT_EQ(a.top[t].token, b.top[t].token) << what << ", token " << i;
      ASSERT_EQ(a.top[t].logprob, b.top[t].logprob) << what << ", token " << i;
    }
  }
}

struct NamedPolicy {
  std::string name;
  SpeculationPolicy policy;
};

// Everything that can draft for a request in `format`, up to `last_exit` layers.
std::vector<NamedPolicy> Drafters(WeightFormat format, int32_t last_exit = kLayers) {
  std::vector<NamedPolicy> all = {
      {"lookup", Lookup()}, {"head", Head()}, {"draft model", ByDraftModel()}};
  for (int32_t exit = 1; exit <= last_exit; ++exit) {
    for (const WeightFormat draft : {format, WeightFormat::kInt8, WeightFormat::kInt4}) {
      all.push_back({"exit " + std::to_string(exit) + " " + std::string(WeightFormatName(draft)),
                     Self(exit, draft)});
    }
  }
  if (last_exit > 1) {
    all.push_back({"all but layer 0", Self(last_exit, format, 4, {0})});
    all.push_back({"all but layer 1", Self(last_exit, format, 4, {1})});
    all.push_back({"exit 2 but layer 0 int8", Self(2, WeightFormat::kInt8, 4, {0})});
  }
  return all;
}

class SpeculationOn : public ::testing::TestWithParam<std::string> {};

TEST_P(SpeculationOn, AnyDrafterGivesTheBitsOfPlainDecodingInEveryFormat) {
  const HarnessOptions options = AllFormats({.isa = GetParam()});
  for (const WeightFormat format : options.formats) {
    Request request = Greedy();
    request.weight_format = format;
    const Trace plain = Alone(options, request);
    for (const auto& [name, policy] : Drafters(format)) {
      request.speculation = policy;
      const Trace got = Alone(options, request);
      ExpectSame(plain, got, std::string(WeightFormatName(format)) + " by " + name);
      EXPECT_GT(got.finish.speculation.total().rounds, 0) << name;
    }
  }
}

TEST_P(SpeculationOn, APrunedPromptGivesTheBitsOfPlainDecoding) {
  HarnessOptions options = AllFormats({.isa = GetParam()});
  options.boundaries = {1};
  for (const auto& [format, mode] : {std::pair(WeightFormat::kBf16, DecodeMode::kStatic),
                                     std::pair(WeightFormat::kInt8, DecodeMode::kStatic),
                                     std::pair(WeightFormat::kBf16, DecodeMode::kPhantom),
                                     std::pair(WeightFormat::kInt8, DecodeMode::kPhantom)}) {
    Request request = Greedy(90);
    request.weight_format = format;
    request.prefill = Pruned(mode);
    const Trace plain = Alone(options, request);
    for (const auto& [name, policy] : Drafters(format, /*last_exit=*/1)) {
      request.speculation = policy;
      const Trace got = Alone(options, request);
      ExpectSame(plain, got, "pruned by " + name);
      EXPECT_EQ(got.finish.prefill.mode, PrefillMode::kLazy);
      EXPECT_GT(got.finish.speculation.total().rounds, 0) << name;
    }
  }
}

std::vector<std::string> Isas() {
  std::vector<std::string> names;
  for (Isa isa : SupportedIsas()) names.emplace_back(IsaName(isa));
  return names;
}

INSTANTIATE_TEST_SUITE_P(Paths, SpeculationOn, ::testing::ValuesIn(Isas()),
                         [](const auto& info) { return info.param; });

// Others come and go, some of them speculating in their own way, some being prefilled.
TEST(Speculation, OtherRequestsOfAnyKindDoNotMatter) {
  HarnessOptions options = AllFormats({.threads = 2});
  options.boundaries = {1};
  std::mt19937 rng(3);
  for (const auto& [name, policy] : Drafters(WeightFormat::kBf16)) {
    Request request = Greedy();
    const Trace plain = Alone(options, request);
    const auto harness = Load(options);
    ScheduledEngine engine(harness.get(), {.max_rows_per_step = 48});
    const auto add_other = [&] {
      const auto format = options.formats[rng() % options.formats.size()];
      Request other = Greedy(20 + static_cast<int32_t>(rng() % 60), rng());
      other.weight_format = format;
      other.sampling.max_tokens = 1 + static_cast<int32_t>(rng() % 30);
      const bool pruned = rng() % 2 == 0;
      if (pruned)
        other.prefill = Pruned(rng() % 2 == 0 ? DecodeMode::kStatic : DecodeMode::kPhantom);
      const auto drafters = Drafters(format, pruned ? 1 : kLayers);
      if (rng() % 4 != 0) other.speculation = drafters[rng() % drafters.size()].policy;
      engine.Submit(std::move(other));
    };
    for (int i = 0; i < 4; ++i) add_other();
    for (int i = 0; i < 3; ++i) engine.Step();
    request.speculation = policy;
    const SeqId id = engine.Submit(request);
    for (int i = 0; i < 6; ++i) {
      add_other();
      engine.Step();
    }
    engine.RunToEnd();
    ExpectSame(plain, Collect(engine, id, request), "among others by " + name);
    EXPECT_EQ(engine.scheduler().cache().ledger().owned(), 0);
  }
}

// Every length of a run, at every offset in a page: drafts right, wrong from the first on, and
// wrong at random.
TEST(Speculation, RightWrongAndRandomDraftsAtPageBordersGiveTheBitsOfPlainDecoding) {
  for (const int32_t page_tokens : {16, 32}) {
    HarnessOptions options = AllFormats({.page_tokens = page_tokens});
    for (int32_t prompt = 27; prompt <= 34; ++prompt) {
      Request request = Greedy(prompt);
      const Trace plain = Alone(options, request);
      const auto right = [&](const PlanSequence& draft) {
        const size_t at = draft.tokens.size() + draft.drafts.size() - request.prompt.size();
        return plain.drawn[at].token;
      };
      const auto other = [](TokenId token) { return (token + 1) % kVocabulary; };
      // Exit rows kept, K/V of another format to be written over, and all layers.
      for (const SpeculationPolicy& policy :
           {Self(1, WeightFormat::kBf16, 7), Self(3, WeightFormat::kInt8, 7), Head(7),
            ByDraftModel(7), Self(3, WeightFormat::kBf16, 1 + prompt % 7)}) {
        request.speculation = policy;
        const Trace all = Alone(options, request,
                                [&](const PlanSequence& draft, TokenId) { return right(draft); });
        ExpectSame(plain, all, "all right");
        EXPECT_EQ(all.finish.speculation.total().accepted, all.finish.speculation.total().drafted);
        const Trace none = Alone(options, request, [&](const PlanSequence& draft, TokenId) {
          return other(right(draft));
        });
        ExpectSame(plain, none, "all wrong");
        EXPECT_EQ(none.finish.speculation.total().accepted, 0);
        std::mt19937 rng(static_cast<uint32_t>(prompt));
        const Trace some = Alone(options, request, [&](const PlanSequence& draft, TokenId) {
          return rng() % 3 == 0 ? other(right(draft)) : right(draft);
        });
        ExpectSame(plain, some, "wrong at random");
      }
    }
  }
}

TEST(Speculation, OneWrongDraftIsRejected) {
  const HarnessOptions options = AllFormats();
  Request request = Greedy();
  const Trace plain = Alone(options, request);
  request.speculation = Self(kLayers, WeightFormat::kBf16, /*drafts=*/1);
  const Trace got = Alone(options, request, [](const PlanSequence&, TokenId right) {
    return (right + 1) % kVocabulary;
  });
  ExpectSame(plain, got, "one wrong draft a round");
  EXPECT_EQ(got.finish.speculation.total().accepted, 0);
  EXPECT_EQ(got.finish.speculation.total().rounds, got.finish.speculation.total().drafted);
}

// Sampling, with everything that changes a distribution.
Request Sampled(uint64_t seed) {
  Request request = Greedy();
  request.sampling.temperature = 0.9f;
  request.sampling.top_k = 40;
  request.sampling.top_p = 0.95f;
  request.sampling.min_p = 0.01f;
  request.sampling.seed = seed;
  return request;
}

void ExpectSameWithEveryDrafter(const Request& plain_request, const std::string& what) {
  const HarnessOptions options = AllFormats();
  const Trace plain = Alone(options, plain_request);
  for (const auto& [name, policy] : Drafters(plain_request.weight_format)) {
    Request request = plain_request;
    request.speculation = policy;
    ExpectSame(plain, Alone(options, request), what + " by " + name);
  }
}

TEST(Speculation, SampledTextIsThatOfTheSeedWithAndWithoutDrafts) {
  for (const uint64_t seed : {1u, 2u, 3u}) ExpectSameWithEveryDrafter(Sampled(seed), "sampled");
  Request hot = Sampled(4);
  hot.sampling.temperature = 1;
  hot.sampling.top_k = 0;
  hot.sampling.top_p = 1;
  hot.sampling.min_p = 0;
  ExpectSameWithEveryDrafter(hot, "T = 1");
}

// A draft is drawn from its own distribution with the noise of its position. Where both
// distributions are one, so are the draws.
TEST(Speculation, ADraftFromTheModelsOwnDistributionIsAlwaysAccepted) {
  Request request = Sampled(7);
  request.sampling.temperature = 1.2f;
  request.sampling.frequency_penalty = 0.4f;
  request.speculation = Self(kLayers, WeightFormat::kBf16, 5);
  const DraftCounts report = Alone(AllFormats(), request).finish.speculation.total();
  EXPECT_GT(report.drafted, kGenerated / 2);
  EXPECT_EQ(report.accepted, report.drafted);
}

TEST(Speculation, PenaltiesCountEveryTokenOfARun) {
  Request request = Sampled(5);
  request.sampling.repetition_penalty = 1.3f;
  request.sampling.frequency_penalty = 0.7f;
  request.sampling.presence_penalty = 0.3f;
  ExpectSameWithEveryDrafter(request, "penalties");
  request.sampling.temperature = 0;
  ExpectSameWithEveryDrafter(request, "greedy with penalties");
}

TEST(Speculation, BiasAndMinPApplyToEveryRow) {
  Request request = Sampled(6);
  request.sampling.min_p = 0.2f;
  for (TokenId token = 0; token < 200; token += 3) request.sampling.bias.push_back({token, 2.5f});
  ExpectSameWithEveryDrafter(request, "bias and min-p");
}

TEST(Speculation, MinTokensBansStopTokensInsideARunAndNoLonger) {
  Request request = Greedy();
  const std::vector<TokenId> text = Alone(AllFormats(), request).tokens();
  // Tokens that plain decoding is known to write.
  for (const int32_t min_tokens : {0, 1, 7, 20}) {
    request.sampling.stop_tokens = {text[3], text[12]};
    request.sampling.min_tokens = min_tokens;
    ExpectSameWithEveryDrafter(request, "min_tokens " + std::to_string(min_tokens));
  }
}

TEST(Speculation, AStopTokenInsideARunEndsTheTextThereAndBeatsTheLength) {
  const HarnessOptions options = AllFormats();
  Request request = Greedy();
  const std::vector<TokenId> text = Alone(options, request).tokens();
  for (int32_t at = 1; at < 12; ++at) {
    const auto first = std::ranges::find(text, text[at]);
    if (first - text.begin() != at) continue;  // stops earlier
    request.sampling.stop_tokens = {text[at]};
    request.sampling.max_tokens = at + 1;
    request.speculation = Self(kLayers, WeightFormat::kBf16, 8);
    const Trace got = Alone(options, request);
    EXPECT_EQ(got.finish.reason, FinishReason::kStopToken);
    EXPECT_EQ(got.finish.generated_tokens, at + 1);
    EXPECT_EQ(got.tokens(), std::vector<TokenId>(text.begin(), text.begin() + at + 1));
    request.sampling.max_tokens = at;
    const Trace cut = Alone(options, request);
    EXPECT_EQ(cut.finish.reason, FinishReason::kLength);
    EXPECT_EQ(cut.finish.generated_tokens, at);
    EXPECT_LE(cut.finish.speculation.total().accepted, at);
  }
}

TEST(Speculation, LogprobsAreThoseOfPlainDecoding) {
  Request request = Sampled(8);
  request.sampling.top_logprobs = 3;
  ExpectSameWithEveryDrafter(request, "logprobs");
  request.sampling.prompt_logprobs = true;
  ExpectSameWithEveryDrafter(request, "prompt logprobs");
}

TEST(Speculation, ForcedTokensAreHonoured) {
  Request request = Greedy();
  request.sampling.forced = {40, 2, 40, 9, 77, 3};
  request.sampling.top_logprobs = 0;
  ExpectSameWithEveryDrafter(request, "forced");
  request.speculation = Lookup();
  const std::vector<TokenId> text = Alone(AllFormats(), request).tokens();
  EXPECT_TRUE(std::ranges::equal(request.sampling.forced,
                                 std::span(text).first(request.sampling.forced.size())));
}

TEST(Speculation, DraftingStopsBehindATokenTheDraftDoubts) {
  Request request = Greedy();
  const Trace plain = Alone(AllFormats(), request);
  request.speculation = Self(kLayers, WeightFormat::kBf16, 6);
  request.speculation.stop_confidence = 1;  // nothing is as sure as that
  const Trace got = Alone(AllFormats(), request);
  ExpectSame(plain, got, "doubted");
  EXPECT_EQ(got.finish.speculation.total().drafted, got.finish.speculation.total().rounds);
}

TEST(Speculation, TheContextEndsWhereItEndsWithoutDrafts) {
  const auto harness = Load(AllFormats());
  const int32_t context = harness->config().max_positions;
  for (const int32_t left : {1, 2, 5}) {
    Request request = Greedy(context - left);
    request.sampling.max_tokens = 100;
    const Trace plain = Alone(AllFormats(), request);
    EXPECT_EQ(plain.finish.generated_tokens, left);
    for (const auto& [name, policy] : Drafters(WeightFormat::kBf16)) {
      request.speculation = policy;
      ExpectSame(plain, Alone(AllFormats(), request), "at the end of the context by " + name);
    }
  }
}

// Pools too small for both: one of them is preempted in the middle of its text.
TEST(Speculation, PreemptionDoesNotMatter) {
  for (const auto& [name, policy] : Drafters(WeightFormat::kBf16)) {
    Request request = Sampled(11);
    const Trace plain = Alone(AllFormats(), request);
    int preempted = 0;
    for (int32_t pages = 10; pages <= 16; ++pages) {
      HarnessOptions options = AllFormats({.page_tokens = 16});
      options.kv_pages = pages;
      const auto harness = Load(options);
      ScheduledEngine engine(harness.get(), {.max_rows_per_step = 16, .prefix_cache = false});
      Request first = Greedy(40, 21);
      first.sampling.max_tokens = 100;
      first.speculation = policy;
      engine.Submit(std::move(first));
      request.speculation = policy;
      const SeqId id = engine.Submit(request);
      engine.RunToEnd();
      if (!engine.client(id).finish->status.ok()) continue;
      ExpectSame(plain, Collect(engine, id, request), name + " " + std::to_string(pages));
      preempted += engine.client(id).finish->preemptions > 0;
    }
    EXPECT_GT(preempted, 0) << name;
  }
}

// What was rejected was in the same pages: another request that finds them cached must not see it.
TEST(Speculation, ThePrefixCacheHoldsOnlyTheModelsOwnText) {
  const HarnessOptions options = AllFormats({.page_tokens = 16});
  const Request plain = Greedy();
  for (const auto& [name, policy] : Drafters(WeightFormat::kBf16)) {
    const auto harness = Load(options);
    ScheduledEngine engine(harness.get(), {});
    engine.SetChangeDraft([rng = std::mt19937(1)](const PlanSequence&, TokenId token) mutable {
      return rng() % 2 == 0 ? token : static_cast<TokenId>(rng() % kVocabulary);
    });
    Request first = plain;
    first.speculation = policy;
    const SeqId id = engine.Submit(first);
    engine.RunToEnd();
    Request second = plain;
    const auto text = engine.client(id).tokens;
    second.prompt.insert(second.prompt.end(), text.begin(), text.end() - 1);
    second.sampling.max_tokens = 8;
    const SeqId reader = engine.Submit(second);
    engine.RunToEnd();
    EXPECT_GT(engine.client(reader).finish->cached_tokens,
              static_cast<int32_t>(plain.prompt.size()));
    ExpectSame(Alone(options, second), Collect(engine, reader, second),
               "reads what " + name + " left");
  }
}

}  // namespace
}  // namespace skim
