// One loaded model in several weight formats: what is resident, what it costs, and that a
// request's bits do not depend on the formats of others.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>

#include "engine/engine.h"
#include "tests/engine/golden.h"
#include "tests/engine/harness.h"

namespace skim {
namespace {

using ::testing::HasSubstr;

EngineOptions Tiny(std::vector<WeightFormat> formats) {
  EngineOptions options;
  options.model_dir = GoldenPath("tiny-llama2");
  options.backend.threads = 1;
  options.backend.pin_threads = false;
  options.weights = std::move(formats);
  return options;
}

TEST(WeightFormats, TheListNamesEachFormatOnce) {
  const auto twice = Engine::Load(Tiny({WeightFormat::kBf16, WeightFormat::kBf16}), {}).status();
  EXPECT_EQ(twice.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(twice.message()), HasSubstr("weights: bf16 is given twice"));
}

TEST(WeightFormats, WithoutAListTheModelIsServedInBf16) {
  const auto engine = Engine::Load(Tiny({}), {});
  ASSERT_TRUE(engine.ok()) << engine.status();
  ASSERT_EQ((*engine)->model().weights.size(), 1u);
  EXPECT_EQ((*engine)->model().weights[0].format, WeightFormat::kBf16);
}

TEST(WeightFormats, ThePartsAddUpToTheResidentBytes) {
  const auto engine = Engine::Load(Tiny({WeightFormat::kBf16}), {});
  ASSERT_TRUE(engine.ok()) << engine.status();
  const ModelInfo& model = (*engine)->model();
  ASSERT_EQ(model.weights.size(), 1u);
  EXPECT_EQ(model.weights[0].format, WeightFormat::kBf16);
  EXPECT_GT(model.weights[0].bytes, 0u);
  EXPECT_GT(model.common_weight_bytes, 0u);
  EXPECT_EQ(model.weight_bytes, model.common_weight_bytes + model.weights[0].bytes);
}

std::map<WeightFormat, uint64_t> BytesOf(const ModelInfo& model) {
  std::map<WeightFormat, uint64_t> bytes;
  for (const FormatInfo& weights : model.weights) bytes[weights.format] = weights.bytes;
  return bytes;
}

// tiny-llama3 is tied, tiny-llama2 is not.
TEST(WeightFormats, AnExtraFormatCostsItsOwnSizeAndNoMore) {
  using enum WeightFormat;
  for (const char* name : {"tiny-llama2", "tiny-llama3"}) {
    const auto load = [&](std::vector<WeightFormat> formats) {
      EngineOptions options = Tiny(std::move(formats));
      options.model_dir = GoldenPath(name);
      return (*Engine::Load(options, {}))->model();
    };
    const ModelInfo bf16 = load({kBf16}), all = load({kFp8, kBf16, kInt4, kInt8});
    EXPECT_EQ(all.common_weight_bytes, bf16.common_weight_bytes) << name;
    EXPECT_EQ(all.parameters, bf16.parameters) << name;
    auto bytes = BytesOf(all);
    EXPECT_EQ(bytes[kBf16], bf16.weights[0].bytes) << name;
    EXPECT_EQ(bytes[kInt8], BytesOf(load({kBf16, kInt8}))[kInt8]) << name;
    EXPECT_LT(bytes[kInt8], bytes[kBf16]) << name;
    // The int8 head is paid for once: by int8, else by the first that takes it.
    auto without_int8 = BytesOf(load({kInt4, kFp8, kBf16}));
    EXPECT_EQ(without_int8[kFp8], bytes[kFp8]) << name;
    EXPECT_GT(without_int8[kInt4], bytes[kInt4]) << name;
    EXPECT_GT(BytesOf(load({kFp8}))[kFp8], bytes[kFp8]) << name;
    // Without a bf16 head the embedding needs a table of its own.
    const bool tied = std::string(name) == "tiny-llama3";
    EXPECT_EQ(load({kInt8}).common_weight_bytes > bf16.common_weight_bytes, tied) << name;
  }
}

TEST(WeightFormats, OneThatIsNotResidentIsNotThereThroughASharedHead) {
  auto harness = EngineHarness::Load(GoldenPath("tiny-llama2"), {.formats = {WeightFormat::kInt4}});
  ASSERT_TRUE(harness.ok()) << harness.status();
  HarnessSequence sequence = (*harness)->NewSequence({1, 2, 3});
  sequence.format = WeightFormat::kInt8;
  EXPECT_EQ((*harness)->Step({{&sequence, 3}}).code(), absl::StatusCode::kInternal);
  sequence.format = WeightFormat::kInt4;
  EXPECT_TRUE((*harness)->Step({{&sequence, 3}}).ok());
}

TEST(WeightFormats, APlanForAFormatThatIsNotResidentIsAnError) {
  auto harness = EngineHarness::Load(GoldenPath("tiny-llama2"), {});
  ASSERT_TRUE(harness.ok()) << harness.status();
  HarnessSequence sequence = (*harness)->NewSequence({1, 2, 3});
  sequence.format = WeightFormat::kFp8;
  const absl::Status status = (*harness)->Step({{&sequence, 3}});
  EXPECT_EQ(status.code(), absl::StatusCode::kInternal);
  EXPECT_THAT(std::string(status.message()), HasSubstr("fp8 weights are not resident"));
}

}  // namespace
}  // namespace skim
