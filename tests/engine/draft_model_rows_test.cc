// Rows of a draft model beside those of the model that it drafts for, in pages of the same pool.
#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "tests/engine/golden.h"
#include "tests/engine/harness.h"
#include "tests/engine/toy_draft_model.h"

namespace skim {
namespace {

constexpr char kModel[] = "tiny-llama3";  // three layers, one KV head of 32, 272 tokens
constexpr int32_t kLayers = 3;

ToyDraftModel::Shape OtherShape() { return {.vocabulary = 272, .context = 512}; }

std::vector<TokenId> Prompt(int32_t length) {
  std::mt19937 rng(static_cast<uint32_t>(length));
  std::vector<TokenId> prompt;
  for (int32_t i = 0; i < length; ++i) prompt.push_back(static_cast<TokenId>(rng() % 256));
  return prompt;
}

// Alone, and in the pages of a model of three layers, more than its two take, or less than its
// five: the same K/V, so the same text.
TEST(DraftModelRows, ItsRowsSayWhatItSaysAlone) {
  ToyDraftModel fewer, other;
  fewer.TakeFirstLayers(kModel, 2);
  other.FillWithNoise(kModel, OtherShape(), /*seed=*/6);
  const std::vector<TokenId> prompt = Prompt(70);
  for (const ToyDraftModel* model : {&fewer, &other}) {
    for (const std::vector<int32_t>& boundaries :
         {std::vector<int32_t>{}, std::vector<int32_t>{1}}) {
      for (const KvFormat kv_format : {KvFormat::kBf16, KvFormat::kInt8}) {
        HarnessOptions options;
        options.kv_format = kv_format;
        auto alone = EngineHarness::Load(model->path(), options);
        ASSERT_TRUE(alone.ok()) << alone.status();
        HarnessSequence right = (*alone)->NewSequence(prompt);
        ASSERT_TRUE((*alone)->Generate(&right, /*chunk=*/32, /*decode=*/20).ok());

        options.draft_model = model->path();
        options.draft_format = WeightFormat::kBf16;
        options.boundaries = boundaries;
        auto loaded = EngineHarness::Load(GoldenPath(kModel), options);
        ASSERT_TRUE(loaded.ok()) << loaded.status();
        const auto both = *std::move(loaded);
        HarnessSequence sequence = both->NewSequence(prompt);
        HarnessSequence others = both->NewSequence(prompt);
        both->ReservePages(&sequence, 300);
        both->ReservePages(&others, 100);
        while (sequence.tokens.size() < right.tokens.size()) {
          StepPlan plan;
          // The model's own rows in the same step, before and behind those.
          const auto add = [&](const HarnessSequence& of, int32_t layers, int32_t rows) {
            PlanSequence entry = both->Entry(of, plan.rows(), rows);
            for (int32_t p = of.computed; p < of.computed + rows; ++p) {
              plan.AddRow(of.tokens[p], p, 0, layers);
            }
            entry.logits = LogitsWanted::kNone;
            plan.sequences.push_back(std::move(entry));
          };
          add(others, kLayers, 1);
          const auto known = static_cast<int32_t>(sequence.tokens.size());
          const int32_t rows = std::min(27, known - sequence.computed);
          add(sequence, both->executor().kv_geometry().draft_model.layers, rows);
          PlanSequence& entry = plan.sequences.back();
          entry.model = PlanModel::kDraft;
          entry.draft = true;
          entry.draws = sequence.computed + rows == known ? 1 : 0;
          if (entry.draws > 0) entry.logits = LogitsWanted::kLast;
          entry.segment_pages = {std::span<const PageId>(sequence.pages.back())};
          StepResult result;
          const absl::Status status = both->executor().Execute(plan, &result);
          ASSERT_TRUE(status.ok()) << status;
          ++others.computed;
          sequence.computed += rows;
          for (const SampledToken& token : result.sequences[1].sampled) {
            sequence.tokens.push_back(token.token);
          }
        }
        EXPECT_EQ(sequence.tokens, right.tokens);
      }
    }
  }
}

TEST(DraftModelRows, ArePlannedOnlyWhereThereIsADraftModelAndWithItsOwnPages) {
  ToyDraftModel other;
  other.FillWithNoise(kModel, OtherShape(), 1);
  for (const bool there : {false, true}) {
    HarnessOptions options;
    if (there) options.draft_model = other.path();
    options.boundaries = {1};
    const auto harness = EngineHarness::Load(GoldenPath(kModel), options);
    ASSERT_TRUE(harness.ok()) << harness.status();
    HarnessSequence sequence = (*harness)->NewSequence(Prompt(40));
    (*harness)->ReservePages(&sequence, 40);
    StepPlan plan;
    PlanSequence entry = (*harness)->Entry(sequence, 0, 1);
    entry.model = PlanModel::kDraft;
    entry.draft = true;
    entry.logits = LogitsWanted::kNone;
    entry.weight_format = WeightFormat::kInt8;
    plan.AddRow(sequence.tokens[0], 0, 0, 5);
    plan.sequences.push_back(entry);
    StepResult result;
    // Two segments: those of the model.
    EXPECT_EQ((*harness)->executor().Execute(plan, &result).code(), absl::StatusCode::kInternal);
    // Its block takes three pages.
    plan.sequences[0].segment_pages = {std::span(sequence.pages[0]).first(2)};
    EXPECT_EQ((*harness)->executor().Execute(plan, &result).code(), absl::StatusCode::kInternal);
    plan.sequences[0].segment_pages = {std::span(sequence.pages[1]).first(3)};
    EXPECT_EQ((*harness)->executor().Execute(plan, &result).ok(), there);
    plan.sequences[0].weight_format = WeightFormat::kBf16;  // is not resident
    EXPECT_EQ((*harness)->executor().Execute(plan, &result).code(), absl::StatusCode::kInternal);
  }
}

TEST(DraftModelRows, AnotherVocabularyAndLayersLargerThanAPageAreRefused) {
  ToyDraftModel words, wide;
  ToyDraftModel::Shape shape = OtherShape();
  shape.vocabulary = 271;
  words.FillWithNoise(kModel, shape, 1);
  HarnessOptions options;
  options.draft_model = words.path();
  const auto refused = EngineHarness::Load(GoldenPath(kModel), options).status();
  EXPECT_EQ(refused.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(refused.message(), "the draft model has 271 tokens, the model 272");
  shape = OtherShape();
  shape.kv_heads = 3;
  wide.FillWithNoise(kModel, shape, 1);
  options.draft_model = wide.path();
  options.boundaries = {1};
  const auto too_wide = EngineHarness::Load(GoldenPath(kModel), options).status();
  EXPECT_EQ(too_wide.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(too_wide.message(),
            "a layer of the draft model takes 6144 bytes of keys and values for 32 tokens, a page "
            "of the model has 4096");
}

}  // namespace
}  // namespace skim
