#include "loadtest/workload.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>

#include "loadtest/malformed.h"

namespace skim {
namespace {

WorkloadOptions Options() {
  WorkloadOptions options;
  options.prompt_tokens = *LengthDistribution::Parse("uniform:10:50");
  options.output_tokens = *LengthDistribution::Parse("uniform:1:20");
  options.vocabulary = 300;
  options.max_context = 100;
  return options;
}

TEST(Workload, TheSameSeedGivesTheSameRequests) {
  WorkloadOptions options = Options();
  options.cancel_share = options.slow_share = options.malformed_share = 0.2;
  Workload one = *Workload::Make(options);
  Workload two = *Workload::Make(options);
  options.seed = 2;
  Workload other = *Workload::Make(options);
  int different = 0;
  for (int i = 0; i < 200; ++i) {
    const PlannedRequest a = one.Next();
    const PlannedRequest b = two.Next();
    // The shape only: NaN differs from itself, and maps have no order.
    EXPECT_EQ(a.behaviour, b.behaviour);
    EXPECT_EQ(a.cancel_after_tokens, b.cancel_after_tokens);
    EXPECT_EQ(a.request.token_ids().DebugString(), b.request.token_ids().DebugString());
    different +=
        a.request.token_ids().DebugString() != other.Next().request.token_ids().DebugString();
  }
  EXPECT_GT(different, 190);
}

TEST(Workload, ValidRequestsFitTheModelAndHaveExactLengths) {
  Workload workload = *Workload::Make(Options());
  for (int i = 0; i < 500; ++i) {
    const v1::GenerateRequest request = workload.Next().request;
    const auto& ids = request.token_ids().ids();
    EXPECT_GE(ids.size(), 10);
    EXPECT_LE(ids.size(), 50);
    EXPECT_THAT(ids, testing::Each(testing::Lt(300u)));
    EXPECT_TRUE(request.sampling().ignore_eos());
    EXPECT_GE(request.sampling().max_tokens(), 1u);
    EXPECT_LE(request.sampling().max_tokens(), 20u);
  }
}

TEST(Workload, AsksForTheWeightFormatsInTurn) {
  WorkloadOptions options = Options();
  EXPECT_FALSE(Workload::Make(options)->Next().request.has_weights());
  options.weights = {v1::WEIGHT_FORMAT_BF16, v1::WEIGHT_FORMAT_INT4};
  Workload workload = *Workload::Make(options);
  for (int i = 0; i < 4; ++i) {
    EXPECT_EQ(workload.Next().request.weights(), options.weights[i % 2]);
  }
}

TEST(Workload, SharesAreMet) {
  WorkloadOptions options = Options();
  options.cancel_share = 0.3;
  options.slow_share = 0.1;
  options.malformed_share = 0.1;
  Workload workload = *Workload::Make(options);
  std::map<Behaviour, int> count;
  for (int i = 0; i < 10'000; ++i) ++count[workload.Next().behaviour];
  // 5 standard deviations of 10,000 draws at p = 0.3 are 230.
  EXPECT_NEAR(count[Behaviour::kCancel], 3000, 230);
  EXPECT_NEAR(count[Behaviour::kSlowReader], 1000, 150);
  EXPECT_NEAR(count[Behaviour::kMalformed], 1000, 150);
}

TEST(Workload, PromptsFromATextAreSlicesOfIt) {
  WorkloadOptions options = Options();
  for (uint32_t i = 0; i < 40; ++i) options.text_ids.push_back(i);
  Workload workload = *Workload::Make(options);
  for (int i = 0; i < 100; ++i) {
    const v1::GenerateRequest request = workload.Next().request;
    const auto& ids = request.token_ids().ids();
    for (int at = 1; at < ids.size(); ++at) EXPECT_EQ(ids[at], (ids[at - 1] + 1) % 40);
  }
}

TEST(Workload, SharedPrefixStartsEveryPrompt) {
  WorkloadOptions options = Options();
  options.shared_prefix_tokens = 16;
  Workload workload = *Workload::Make(options);
  const v1::GenerateRequest first = workload.Next().request;
  for (int i = 0; i < 20; ++i) {
    const v1::GenerateRequest request = workload.Next().request;
    EXPECT_GE(request.token_ids().ids_size(), 26);
    for (int at = 0; at < 16; ++at) {
      EXPECT_EQ(request.token_ids().ids(at), first.token_ids().ids(at));
    }
  }
}

TEST(Workload, RefusesWhatCannotBeSent) {
  WorkloadOptions too_long = Options();
  too_long.max_context = 69;  // 50 + 20 do not fit
  EXPECT_FALSE(Workload::Make(too_long).ok());
  too_long.max_context = 70;
  EXPECT_TRUE(Workload::Make(too_long).ok());

  WorkloadOptions shares = Options();
  shares.cancel_share = 0.6;
  shares.slow_share = 0.6;
  EXPECT_FALSE(Workload::Make(shares).ok());
  shares.slow_share = -0.1;
  EXPECT_FALSE(Workload::Make(shares).ok());
}

TEST(Malformed, EveryKindChangesTheRequest) {
  for (size_t kind = 0; kind < MalformedKinds(); ++kind) {
    Workload workload = *Workload::Make(Options());
    v1::GenerateRequest request = workload.Next().request;
    const std::string before = request.SerializeAsString();
    BreakRequest(kind, 300, 100, &request);
    EXPECT_NE(request.SerializeAsString(), before) << kind;
  }
}

}  // namespace
}  // namespace skim
