// One loaded model in several weight formats: what is resident, what it costs, and that a
// request's bits do not depend on the formats of others.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

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
  const auto none = Engine::Load(Tiny({}), {}).status();
  EXPECT_EQ(none.code(), absl::StatusCode::kInvalidArgument);
  const auto twice = Engine::Load(Tiny({WeightFormat::kBf16, WeightFormat::kBf16}), {}).status();
  EXPECT_EQ(twice.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(twice.message()), HasSubstr("weights: bf16 is given twice"));
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
