// Output that the request prescribes: its scores are those of the same tokens in a prompt.
#include <gtest/gtest.h>

#include "tests/engine/golden.h"
#include "tests/engine/harness.h"

namespace skim {
namespace {

const std::vector<TokenId> kPrompt = {5, 17, 3, 29, 11};
const std::vector<TokenId> kForced = {40, 2, 40, 9};

std::unique_ptr<EngineHarness> Tiny() {
  auto harness = EngineHarness::Load(GoldenPath("tiny-llama2"), {});
  EXPECT_TRUE(harness.ok()) << harness.status();
  return std::move(harness).value();
}

TEST(ForcedTokens, AreTheOutputWithTheLogprobsTheyHaveInAPrompt) {
  const auto harness = Tiny();
  std::vector<TokenId> text = kPrompt;
  text.insert(text.end(), kForced.begin(), kForced.end());
  HarnessSequence scored = harness->NewSequence(text);
  scored.sampling.prompt_logprobs = true;
  scored.sampling.top_logprobs = 2;
  StepResult prompt;
  ASSERT_TRUE(harness->Step({{&scored, static_cast<int32_t>(text.size())}}, &prompt).ok());
  const auto& expected = prompt.sequences[0].prompt_logprobs;
  ASSERT_EQ(expected.size(), text.size() - 1);

  HarnessSequence forced = harness->NewSequence(kPrompt);
  forced.sampling.forced = kForced;
  forced.sampling.top_logprobs = 2;
  for (size_t i = 0; i < kForced.size(); ++i) {
    StepResult step;
    const int32_t rows = i == 0 ? static_cast<int32_t>(kPrompt.size()) : 1;
    ASSERT_TRUE(harness->Step({{&forced, rows}}, &step).ok());
    const SampledToken& got = step.sequences[0].sampled.at(0);
    const SampledToken& want = expected[kPrompt.size() - 1 + i];
    EXPECT_EQ(got.token, kForced[i]);
    EXPECT_EQ(got.logprob, want.logprob);
    EXPECT_EQ(got.top[0].token, want.top[0].token);
    EXPECT_EQ(got.top[1].logprob, want.top[1].logprob);
  }
  EXPECT_EQ(forced.tokens, text);
}

TEST(ForcedTokens, WhatFollowsThemIsDrawnAsAfterThatPrompt) {
  const auto harness = Tiny();
  std::vector<TokenId> text = kPrompt;
  text.insert(text.end(), kForced.begin(), kForced.end());
  HarnessSequence given = harness->NewSequence(text);
  ASSERT_TRUE(harness->Generate(&given, 64, 6).ok());

  HarnessSequence forced = harness->NewSequence(kPrompt);
  forced.sampling.forced = kForced;
  ASSERT_TRUE(harness->Generate(&forced, 64, 6 + static_cast<int32_t>(kForced.size())).ok());
  EXPECT_EQ(forced.tokens, given.tokens);
}

}  // namespace
}  // namespace skim
