#include "engine/engine.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <string>
#include <utility>

#include "tests/engine/golden.h"
#include "tests/engine/toy_draft_model.h"

namespace skim {
namespace {

EngineOptions Tiny() {
  EngineOptions options;
  options.model_dir = GoldenPath("tiny-llama2");
  options.backend.threads = 1;
  options.backend.pin_threads = false;
  return options;
}

TEST(Engine, TellsWhatItLoaded) {
  uint64_t last = 0, total = 0;
  auto engine = Engine::Load(Tiny(), [&](uint64_t done, uint64_t all) {
    EXPECT_GE(done, last);
    EXPECT_LE(done, all);
    last = done;
    total = all;
  });
  ASSERT_TRUE(engine.ok()) << engine.status();
  EXPECT_GT(total, 0u);
  const ModelInfo& model = (*engine)->model();
  EXPECT_EQ(model.architecture, "llama");
  EXPECT_EQ(model.vocabulary, 263);
  EXPECT_GT(model.parameters, 10'000u);
  EXPECT_GT(model.kv_cache_bytes, 0u);
}

TEST(Engine, TellsWhatAStepReadsOfEachFormat) {
  EngineOptions options = Tiny();
  options.weights = {WeightFormat::kBf16, WeightFormat::kInt8, WeightFormat::kInt4};
  auto engine = Engine::Load(options, {});
  ASSERT_TRUE(engine.ok()) << engine.status();
  const ModelInfo& model = (*engine)->model();
  ASSERT_EQ(model.weights.size(), 3u);
  const auto layers = static_cast<uint64_t>(model.layers);
  for (const FormatInfo& format : model.weights) {
    EXPECT_GT(format.head_bytes, 0u);
    // int4 uses the int8 head.
    const bool own_head = format.format != WeightFormat::kInt4;
    EXPECT_EQ(format.bytes, layers * format.layer_bytes + (own_head ? format.head_bytes : 0));
  }
  EXPECT_GT(model.weights[0].layer_bytes, model.weights[1].layer_bytes);
  EXPECT_EQ(model.weights[2].head_bytes, model.weights[1].head_bytes);
}

// Else a sequence would outgrow the pool in the middle of its answer.
TEST(Engine, AContextIsNoLongerThanWhatTheKvCacheHolds) {
  auto roomy = Engine::Load(Tiny(), {});
  ASSERT_TRUE(roomy.ok()) << roomy.status();
  const ModelInfo& model = (*roomy)->model();
  const KvGeometry& geometry = (*roomy)->executor().kv_geometry();
  const int64_t block_bytes = static_cast<int64_t>(model.kv_cache_bytes) / geometry.total_pages *
                              geometry.PagesPerBlock();

  EngineOptions options = Tiny();
  options.kv_cache_bytes = 2 * block_bytes + 1;
  auto tight = Engine::Load(options, {});
  ASSERT_TRUE(tight.ok()) << tight.status();
  EXPECT_EQ((*tight)->model().max_context, 2 * geometry.page_tokens);

  options.kv_cache_bytes = block_bytes - 1;
  EXPECT_EQ(Engine::Load(options, {}).status().code(), absl::StatusCode::kResourceExhausted);
}

TEST(Engine, TheSameBytesHoldNearlyTwiceTheTokensInEightBits) {
  EngineOptions options = Tiny();
  options.kv_cache_bytes = int64_t{256} << 10;
  options.max_running = 1024;
  std::map<KvFormat, int64_t> tokens;
  for (KvFormat format : {KvFormat::kBf16, KvFormat::kInt8, KvFormat::kFp8}) {
    options.kv_format = format;
    auto engine = Engine::Load(options, {});
    ASSERT_TRUE(engine.ok()) << engine.status();
    const ModelInfo& model = (*engine)->model();
    EXPECT_EQ(model.kv_format, format);
    EXPECT_LE(model.kv_cache_bytes, static_cast<uint64_t>(options.kv_cache_bytes));
    tokens[format] = model.kv_cache_tokens;
  }
  EXPECT_EQ(tokens[KvFormat::kInt8], tokens[KvFormat::kFp8]);
  // Scales weigh more where heads are small, as in this model.
  EXPECT_GT(tokens[KvFormat::kInt8], tokens[KvFormat::kBf16] * 1.5);
  EXPECT_LT(tokens[KvFormat::kInt8], tokens[KvFormat::kBf16] * 2);
}

// Truncated copies of the model itself, with its tokenizer changed.
TEST(Engine, ADraftModelWithTheSameTokensIsLoadedAndCounted) {
  ToyDraftModel draft;
  draft.TakeFirstLayers("tiny-llama2", 2);
  EngineOptions options = Tiny();
  const auto plain = Engine::Load(options, {});
  ASSERT_TRUE(plain.ok()) << plain.status();
  EXPECT_EQ((*plain)->model().draft_model_bytes, 0u);
  options.draft_model_dir = draft.path();
  const auto engine = Engine::Load(options, {});
  ASSERT_TRUE(engine.ok()) << engine.status();
  const ModelInfo& model = (*engine)->model();
  EXPECT_GT(model.draft_model_bytes, model.draft_model_step_bytes);
  EXPECT_GT(model.draft_model_step_bytes, 0u);
  EXPECT_LT(model.draft_model_step_bytes, model.layers * model.weights[0].layer_bytes);
  EXPECT_EQ(model.weight_bytes, (*plain)->model().weight_bytes + model.draft_model_bytes);
  const DraftModelGeometry& geometry = (*engine)->executor().kv_geometry().draft_model;
  EXPECT_EQ(geometry.layers, 2);
  EXPECT_EQ(geometry.format, WeightFormat::kInt8);
  EXPECT_EQ(geometry.row_layers, 2);
  EXPECT_EQ(geometry.units, 2);  // prompts can be cut at any layer, so a page is of one
}

TEST(Engine, ADraftModelWithOtherTokensIsRefusedInOneSentence) {
  EngineOptions options = Tiny();
  const auto message = [&](const ToyDraftModel& draft) {
    options.draft_model_dir = draft.path();
    const absl::Status status = Engine::Load(options, {}).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    return std::string(status.message());
  };
  ToyDraftModel changed, renamed, broken;
  changed.TakeFirstLayers("tiny-llama2", 1);
  nlohmann::json tokenizer = changed.Tokenizer();
  std::swap(tokenizer["model"]["vocab"]["a"], tokenizer["model"]["vocab"]["b"]);
  changed.SetTokenizer(tokenizer);
  EXPECT_THAT(message(changed), testing::HasSubstr("its vocabulary is another: token "));
  EXPECT_THAT(message(changed), testing::StartsWith("draft_model " + changed.path()));

  renamed.TakeFirstLayers("tiny-llama2", 1);
  tokenizer = renamed.Tokenizer();
  tokenizer["added_tokens"][0]["content"] = "<|other|>";
  renamed.SetTokenizer(tokenizer);
  EXPECT_THAT(message(renamed), testing::HasSubstr("its vocabulary is another: token "));

  broken.TakeFirstLayers("tiny-llama2", 1);
  broken.SetTokenizer({{"model", {{"vocab", "none"}}}});
  EXPECT_THAT(message(broken), testing::HasSubstr("tokenizer.json: model.vocab"));

  options.draft_model_dir = GoldenPath("tiny-llama3");
  EXPECT_EQ(Engine::Load(options, {}).status().code(), absl::StatusCode::kInvalidArgument);
  options.draft_model_dir = "/nowhere";
  EXPECT_EQ(Engine::Load(options, {}).status().code(), absl::StatusCode::kNotFound);
}

TEST(Engine, NamesWhatIsMissing) {
  EngineOptions options = Tiny();
  options.model_dir = "/nowhere";
  EXPECT_EQ(Engine::Load(options, {}).status().code(), absl::StatusCode::kNotFound);
  options = Tiny();
  options.backend.backend = "cuda";
  EXPECT_EQ(Engine::Load(options, {}).status().code(), absl::StatusCode::kFailedPrecondition);
  options.backend.backend = "tpu";
  EXPECT_EQ(Engine::Load(options, {}).status().code(), absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace skim
