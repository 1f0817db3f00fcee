// A second model that drafts, through the real scheduler: its K/V follow the text whatever is
// accepted, evicted and preempted, in pages of a pool that was made for another shape.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <random>
#include <string>

#include "tests/engine/golden.h"
#include "tests/engine/scheduled_engine.h"
#include "tests/engine/toy_draft_model.h"

namespace skim {
namespace {

constexpr char kModel[] = "tiny-llama3";  // three layers, one KV head of 32, 272 tokens
constexpr int32_t kLayers = 3;

HarnessOptions With(const ToyDraftModel& model, WeightFormat format = WeightFormat::kBf16) {
  HarnessOptions options;
  options.draft_model = model.path();
  options.draft_format = format;
  return options;
}

ToyDraftModel::Shape OtherShape() { return {.vocabulary = 272, .context = 512}; }

Request Drafted(int32_t prompt_tokens, int32_t drafts, int32_t max_tokens = 60) {
  Request request;
  std::mt19937 rng(static_cast<uint32_t>(prompt_tokens));
  for (int32_t i = 0; i < prompt_tokens; ++i) {
    request.prompt.push_back(static_cast<TokenId>(rng() % 256));
  }
  request.sampling.temperature = 0;
  request.sampling.max_tokens = max_tokens;
  request.speculation.drafter = drafts > 0 ? DrafterKind::kDraftModel : DrafterKind::kNone;
  request.speculation.max_drafts = std::max(1, drafts);
  return request;
}

struct Told {
  std::vector<TokenId> tokens;
  std::vector<std::vector<float>> logits;
  Finish finish;
};

Told Generate(EngineHarness* harness, const Request& request, SchedulerConfig config = {}) {
  ScheduledEngine engine(harness, config);
  const SeqId id = engine.Submit(request);
  engine.RunToEnd();
  EXPECT_EQ(engine.scheduler().cache().ledger().owned(), 0);
  Told told{engine.client(id).tokens, {}, *engine.client(id).finish};
  const auto first = static_cast<int32_t>(request.prompt.size()) - 1;
  for (size_t i = 0; i < told.tokens.size(); ++i) {
    told.logits.push_back(engine.Logits(id, first + static_cast<int32_t>(i)));
  }
  return told;
}

std::unique_ptr<EngineHarness> Load(const HarnessOptions& options) {
  auto harness = EngineHarness::Load(GoldenPath(kModel), options);
  EXPECT_TRUE(harness.ok()) << harness.status();
  return *std::move(harness);
}

void ExpectSame(const Told& want, const Told& got, const std::string& what) {
  ASSERT_EQ(want.tokens, got.tokens) << what;
  for (size_t i = 0; i < want.logits.size(); ++i) {
    ASSERT_EQ(std::memcmp(want.logits[i].data(), got.logits[i].data(),
                          want.logits[i].size() * sizeof(float)),
              0)
        << what << ", token " << i;
  }
}

const DraftCounts& Counts(const Told& told) {
  return told.finish.speculation.by_source[kDraftModelSource];
}

// Its own K/V then are those of the model: the whole prompt, in whatever chunks, what was accepted
// and not what was rejected. One token that it lacks, or has in a wrong place, and it errs.
TEST(DraftModel, TheModelItselfIsAlwaysRight) {
  ToyDraftModel copy;
  copy.TakeFirstLayers(kModel, kLayers);
  for (const int32_t page_tokens : {16, 32}) {
    HarnessOptions options = With(copy);
    options.page_tokens = page_tokens;
    const auto harness = Load(options);
    for (const int32_t prompt : {1, 15, 16, 17, 33, 60, 200}) {
      const Told plain = Generate(harness.get(), Drafted(prompt, 0));
      for (const int32_t drafts : {1, 2, 5, 8}) {
        const Told got =
            Generate(harness.get(), Drafted(prompt, drafts), {.max_rows_per_step = 24});
        ExpectSame(plain, got, std::to_string(drafts) + " drafts");
        EXPECT_GT(Counts(got).drafted, 20);
        EXPECT_EQ(Counts(got).accepted, Counts(got).drafted);
        EXPECT_EQ(Counts(got).drafted, Counts(got).passes);
        // The prompt and each round's newest token; no token twice.
        EXPECT_GE(Counts(got).catch_up_rows, prompt - 1);
        EXPECT_LE(Counts(got).passes + Counts(got).catch_up_rows, prompt + 60);
        EXPECT_EQ(Counts(got).catch_ups > 0, prompt + 1 > Speculation::kMostLag);
      }
    }
  }
}

TEST(DraftModel, TheModelItselfIsRightAgainBehindDraftsThatWereReplaced) {
  ToyDraftModel copy;
  copy.TakeFirstLayers(kModel, kLayers);
  const auto harness = Load(With(copy));
  const Told plain = Generate(harness.get(), Drafted(40, 0));
  ScheduledEngine engine(harness.get(), {});
  std::mt19937 rng(5);
  int32_t wrong = 0;
  engine.SetChangeDraft([&](const PlanSequence&, TokenId right) {
    if (rng() % 4 != 0) return right;
    ++wrong;
    return (right + 1) % 256;
  });
  const SeqId id = engine.Submit(Drafted(40, 6));
  engine.RunToEnd();
  EXPECT_EQ(engine.client(id).tokens, plain.tokens);
  const DraftCounts& counts = engine.client(id).finish->speculation.by_source[kDraftModelSource];
  EXPECT_GT(wrong, 5);
  // A round ends at its first wrong draft; but for those, all are accepted.
  EXPECT_GE(counts.accepted, counts.drafted - 6 * wrong);
  EXPECT_GT(counts.accepted, 20);
}

// More layers than a page takes, heads of another size, int4: K/V of two shapes in one pool.
TEST(DraftModel, AModelOfAnotherShapeSharesThePool) {
  ToyDraftModel other;
  other.FillWithNoise(kModel, OtherShape(), /*seed=*/3);
  for (const std::vector<int32_t>& boundaries : {std::vector<int32_t>{}, std::vector<int32_t>{1}}) {
    for (const KvFormat kv_format : {KvFormat::kBf16, KvFormat::kInt8, KvFormat::kFp8}) {
      for (const WeightFormat format : {WeightFormat::kBf16, WeightFormat::kInt4}) {
        HarnessOptions options = With(other, format);
        options.boundaries = boundaries;
        options.kv_format = kv_format;
        const auto harness = Load(options);
        const DraftModelGeometry& geometry = harness->executor().kv_geometry().draft_model;
        EXPECT_EQ(geometry.layers, 5);
        // A page of three layers holds all five of half the width; one of one layer two, or with
        // their scales one.
        const int32_t pages_of_one = kv_format == KvFormat::kBf16 ? 3 : 5;
        EXPECT_EQ(geometry.units, boundaries.empty() ? 1 : pages_of_one);
        const Told plain = Generate(harness.get(), Drafted(50, 0));
        const Told got = Generate(harness.get(), Drafted(50, 4));
        ExpectSame(plain, got, "another shape");
        EXPECT_GT(Counts(got).drafted, 40);
      }
    }
  }
}

TEST(DraftModel, ItDraftsOnlyInsideItsOwnContext) {
  ToyDraftModel other;
  ToyDraftModel::Shape shape = OtherShape();
  shape.context = 70;
  other.FillWithNoise(kModel, shape, /*seed=*/4);
  const auto harness = Load(With(other));
  EXPECT_EQ(harness->executor().kv_geometry().draft_model.context, 70);
  for (const int32_t prompt : {60, 68, 69, 70, 71, 90}) {
    const Told plain = Generate(harness.get(), Drafted(prompt, 0));
    const Told got = Generate(harness.get(), Drafted(prompt, 6));
    ExpectSame(plain, got, "prompt of " + std::to_string(prompt));
    // While it runs the prompt, a token more comes.
    EXPECT_EQ(Counts(got).drafted > 0, prompt < 69) << prompt;
    EXPECT_EQ(Counts(got).catch_up_rows > 0, prompt < 69) << prompt;
  }
}

TEST(DraftModel, ALongPromptIsNotRunForAFewTokens) {
  ToyDraftModel copy;
  copy.TakeFirstLayers(kModel, kLayers);
  const auto harness = Load(With(copy));
  for (const auto& [tokens, runs] : {std::pair(6, false), std::pair(40, true)}) {
    const Told got = Generate(harness.get(), Drafted(300, 4, tokens));
    EXPECT_EQ(Counts(got).catch_up_rows > 0, runs) << tokens;
    EXPECT_EQ(Counts(got).drafted > 0, runs) << tokens;
  }
}

// Two streams and pages for hardly more than their own K/V: draft models come and go, and one
// stream at last, too; who was refused pages drafts again or no more, and says the same.
TEST(DraftModel, ItsPagesAreTakenBeforeAnybodyIsPreempted) {
  ToyDraftModel copy;
  copy.TakeFirstLayers(kModel, kLayers);
  int32_t drafted_and_not_preempted = 0, gave_up = 0, preempted = 0;
  for (int32_t pages = 8; pages <= 24; ++pages) {
    HarnessOptions options = With(copy);
    options.page_tokens = 16;
    options.kv_pages = pages;
    const auto harness = Load(options);
    const Told plain[] = {Generate(harness.get(), Drafted(40, 0, 70)),
                          Generate(harness.get(), Drafted(41, 0, 70))};
    ScheduledEngine engine(harness.get(), {.max_rows_per_step = 64, .prefix_cache = false});
    const SeqId ids[] = {engine.Submit(Drafted(40, 4, 70)), engine.Submit(Drafted(41, 4, 70))};
    bool preempted_before_eviction = false;
    while (engine.Step()) {
      const bool anybody = engine.scheduler().stats().preempted > 0;
      for (const auto& sequence : engine.scheduler().running()) {
        preempted_before_eviction |= anybody && !sequence->kv.draft_model.empty();
      }
    }
    EXPECT_FALSE(preempted_before_eviction);
    EXPECT_EQ(engine.scheduler().cache().ledger().owned(), 0);
    for (int i = 0; i < 2; ++i) {
      const ScheduledEngine::Client& client = engine.client(ids[i]);
      ASSERT_TRUE(client.finish && client.finish->status.ok());
      EXPECT_EQ(client.tokens, plain[i].tokens) << pages;
      const DraftCounts& counts = client.finish->speculation.by_source[kDraftModelSource];
      drafted_and_not_preempted += counts.drafted > 0 && client.finish->preemptions == 0;
      preempted += client.finish->preemptions;
      gave_up += counts.drafted < 20;
    }
  }
  EXPECT_GT(drafted_and_not_preempted, 0);
  EXPECT_GT(preempted, 0);
  EXPECT_GT(gave_up, 0);
}

// Its rows stand beside those of the model; who is being prefilled is served first.
TEST(DraftModel, CatchingUpStandsBesideDecodingAndBehindPrompts) {
  ToyDraftModel copy;
  copy.TakeFirstLayers(kModel, kLayers);
  const auto harness = Load(With(copy));
  const Told alone = Generate(harness.get(), Drafted(300, 0));
  ScheduledEngine engine(harness.get(), {.max_rows_per_step = 32, .prefix_cache = false});
  const SeqId id = engine.Submit(Drafted(300, 4));
  while (engine.client(id).tokens.empty()) {
    ASSERT_TRUE(engine.Step());
    EXPECT_EQ(engine.scheduler().stats().catch_up_rows, 0) << "before the first token";
  }
  const SeqId other = engine.Submit(Drafted(200, 0));
  int32_t caught_up = 0;
  while (engine.Step()) {
    const StepStats& stats = engine.scheduler().stats();
    if (engine.client(other).tokens.empty() && stats.prefill_rows > 0) {
      // What a prompt could have taken, it took.
      EXPECT_TRUE(stats.catch_up_rows == 0 || stats.rows < 32);
    }
    if (stats.draft_rows == 0) caught_up = std::max(caught_up, stats.catch_up_rows);
  }
  EXPECT_GT(caught_up, 16);
  EXPECT_EQ(engine.client(id).tokens, alone.tokens);
  EXPECT_GT(engine.client(id).finish->speculation.total().accepted, 20);
}

}  // namespace
}  // namespace skim
