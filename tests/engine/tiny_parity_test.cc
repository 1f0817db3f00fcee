// Logits of every supported architecture against Hugging Face transformers in float32.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "engine/safetensors.h"
#include "kernels/cpu/isa.h"
#include "tests/engine/golden.h"
#include "tests/engine/harness.h"

namespace skim {
namespace {

// Weights are bf16 on both sides; we round the inputs of every product to bf16 as well.
constexpr float kRelative = 2e-2f;

class TinyParity : public ::testing::TestWithParam<std::tuple<std::string, std::string>> {};

TEST_P(TinyParity, LogitsMatchTransformersInFloat32) {
  const auto& [name, isa] = GetParam();
  auto harness = EngineHarness::Load(GoldenPath(name), {.isa = isa});
  ASSERT_TRUE(harness.ok()) << harness.status();
  auto golden = SafetensorsFile::Open(GoldenPath(name + ".logits.safetensors"));
  ASSERT_TRUE(golden.ok()) << golden.status();
  const std::vector<int64_t> ids = *golden->ReadInt("ids");
  const std::vector<float> want = *golden->ReadFloat("logits");
  const size_t vocab = (*harness)->config().vocab_size;
  ASSERT_EQ(want.size(), ids.size() * vocab);

  HarnessSequence sequence = (*harness)->NewSequence({ids.begin(), ids.end()});
  ASSERT_TRUE((*harness)->Generate(&sequence, 50, 0).ok());
  float worst = 0;
  for (size_t p = 0; p < ids.size(); ++p) {
    const std::vector<float>& got = (*harness)->Logits(sequence.id, static_cast<int32_t>(p));
    float difference = 0, largest = 0;
    for (size_t v = 0; v < vocab; ++v) {
      difference = std::max(difference, std::abs(got[v] - want[p * vocab + v]));
      largest = std::max(largest, std::abs(want[p * vocab + v]));
    }
    worst = std::max(worst, difference / largest);
  }
  RecordProperty("worst_relative_error", std::to_string(worst));
  EXPECT_LE(worst, kRelative);
}

std::vector<std::string> Isas() {
  std::vector<std::string> names;
  for (Isa isa : SupportedIsas()) names.emplace_back(IsaName(isa));
  return names;
}

INSTANTIATE_TEST_SUITE_P(
    Golden, TinyParity,
    ::testing::Combine(::testing::Values("tiny-llama2", "tiny-llama3", "tiny-mistral", "tiny-qwen2",
                                         "tiny-qwen3", "tiny-llama-bias", "tiny-linear-rope"),
                       ::testing::ValuesIn(Isas())),
    [](const auto& info) {
      std::string name = std::get<0>(info.param) + "_" + std::get<1>(info.param);
      std::replace(name.begin(), name.end(), '-', '_');
      return name;
    });

}  // namespace
}  // namespace skim
