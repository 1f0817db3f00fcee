// G8: whole models on the CUDA backend against the CPU's: the same greedy tokens, logits within
// a tolerance.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "tests/engine/golden.h"
#include "tests/engine/harness.h"

namespace skim {
namespace {

// Of the largest logit. Both round the inputs of products to bf16, but sums are added in
// different orders, so that now and then the roundings differ.
constexpr float kRelative = 2e-2f;

class BackendParity : public ::testing::TestWithParam<std::string> {
 protected:
  std::unique_ptr<EngineHarness> Load(const std::string& backend) {
    auto harness = EngineHarness::Load(
        GoldenPath(GetParam()),
        {.backend = backend, .page_tokens = 16, .kv_pages = 64, .max_rows = 64, .boundaries = {1}});
    if (harness.ok()) return *std::move(harness);
    EXPECT_EQ(harness.status().code(), absl::StatusCode::kFailedPrecondition) << harness.status();
    return nullptr;
  }
};

TEST_P(BackendParity, GreedyTokensAreTheCpus) {
  const auto device = Load("cuda");
  if (device == nullptr) GTEST_SKIP() << "no CUDA device";
  const auto host = Load("cpu");
  std::vector<TokenId> prompt(37);
  for (size_t i = 0; i < prompt.size(); ++i) prompt[i] = static_cast<TokenId>(i * 53 % 250);
  // Two sequences in one batch: prefill of one beside the decoding of the other.
  const std::vector<TokenId> shorter(prompt.begin() + 20, prompt.begin() + 25);
  std::vector<std::vector<TokenId>> tokens;
  std::vector<std::vector<float>> logits;
  for (EngineHarness* harness : {host.get(), device.get()}) {
    HarnessSequence a = harness->NewSequence(prompt), b = harness->NewSequence(shorter);
    ASSERT_TRUE(harness->Step({{&b, 5}}).ok());
    ASSERT_TRUE(harness->Step({{&a, 30}, {&b, 1}}).ok());
    ASSERT_TRUE(harness->Step({{&b, 1}, {&a, 7}}).ok());
    for (int i = 0; i < 4; ++i) ASSERT_TRUE(harness->Step({{&a, 1}, {&b, 1}}).ok());
    tokens.push_back(a.tokens);
    tokens.push_back(b.tokens);
    logits.push_back(harness->Logits(a.id, a.computed - 1));
    logits.push_back(harness->Logits(b.id, b.computed - 1));
  }
  for (int i : {0, 1}) {
    EXPECT_EQ(tokens[i], tokens[2 + i]);
    float difference = 0, largest = 0;
    for (size_t v = 0; v < logits[i].size(); ++v) {
      difference = std::max(difference, std::abs(logits[i][v] - logits[2 + i][v]));
      largest = std::max(largest, std::abs(logits[i][v]));
    }
    EXPECT_LE(difference, kRelative * largest);
  }
}

INSTANTIATE_TEST_SUITE_P(cuda, BackendParity,
                         testing::Values("tiny-llama2", "tiny-qwen2", "tiny-qwen3",
                                         "tiny-llama-bias"),
                         [](const auto& info) {
                           std::string name = info.param;
                           std::replace(name.begin(), name.end(), '-', '_');
                           return name;
                         });

}  // namespace
}  // namespace skim
