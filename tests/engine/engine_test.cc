#include "engine/engine.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>

#include "tests/engine/golden.h"

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
