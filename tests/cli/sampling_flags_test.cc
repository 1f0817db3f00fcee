#include "cli/sampling_flags.h"

#include <gmock/gmock.h>
#include <google/protobuf/text_format.h>
#include <google/protobuf/util/message_differencer.h>
#include <gtest/gtest.h>

namespace skim {
namespace {

absl::Status Parse(const std::string& arguments, v1::GenerateRequest* request) {
  CLI::App app;
  SamplingFlags flags;
  flags.Register(&app);
  try {
    app.parse(arguments);
  } catch (const CLI::ParseError& error) {
    return absl::InvalidArgumentError(error.what());
  }
  return flags.Fill(request);
}

TEST(SamplingFlags, LeaveUnsetWhatIsNotGiven) {
  v1::GenerateRequest request;
  ASSERT_TRUE(Parse("", &request).ok());
  EXPECT_EQ(request.ByteSizeLong(), 2u);  // `sampling`, there and empty
  EXPECT_EQ(request.sampling().ByteSizeLong(), 0u);
}

TEST(SamplingFlags, EveryFlagReachesItsField) {
  v1::GenerateRequest request;
  const absl::Status status = Parse(
      "--max-tokens 1 --min-tokens 0 --temperature 0 --top-k 4 --top-p 0.5 --min-p 0.25 "
      "--repetition-penalty 1.5 --frequency-penalty -0.5 --presence-penalty 2 --logit-bias 7=-1.5 "
      "--logit-bias 8=2 --seed 18446744073709551615 --stop a --stop b --stop-token 9 --ignore-eos "
      "--priority -3 --tenant t --cache-salt s --time-limit-ms 100 --request-id r --weights int8",
      &request);
  ASSERT_TRUE(status.ok()) << status;
  v1::GenerateRequest expected;
  ASSERT_TRUE(google::protobuf::TextFormat::ParseFromString(R"pb(
                                                              sampling {
                                                                max_tokens: 1
                                                                min_tokens: 0
                                                                temperature: 0
                                                                top_k: 4
                                                                top_p: 0.5
                                                                min_p: 0.25
                                                                repetition_penalty: 1.5
                                                                frequency_penalty: -0.5
                                                                presence_penalty: 2
                                                                logit_bias { key: 7 value: -1.5 }
                                                                logit_bias { key: 8 value: 2 }
                                                                seed: 18446744073709551615
                                                                stop: "a"
                                                                stop: "b"
                                                                stop_token_ids: 9
                                                                ignore_eos: true
                                                              }
                                                              priority: -3
                                                              tenant: "t"
                                                              cache_salt: "s"
                                                              time_limit_ms: 100
                                                              request_id: "r"
                                                              weights: WEIGHT_FORMAT_INT8)pb",
                                                            &expected));
  EXPECT_TRUE(google::protobuf::util::MessageDifferencer::Equals(request, expected))
      << request.DebugString();
}

TEST(SamplingFlags, SpeculationNamesADrafterAndItsParameters) {
  const auto parse = [](const std::string& arguments) {
    v1::GenerateRequest request;
    EXPECT_TRUE(Parse(arguments, &request).ok()) << arguments;
    return request.speculation();
  };
  EXPECT_TRUE(parse("--speculation off").has_off());
  EXPECT_TRUE(parse("--speculation auto").has_auto_());
  EXPECT_TRUE(parse("--speculation lookup").has_lookup());
  EXPECT_FALSE(parse("--speculation lookup").lookup().shared_store());
  EXPECT_TRUE(parse("--speculation lookup:shared").lookup().shared_store());
  EXPECT_TRUE(parse("--speculation auto:shared").auto_().shared_store());
  const v1::Speculation self = parse("--speculation self");
  EXPECT_TRUE(self.has_self());
  EXPECT_TRUE(parse("--speculation head").has_head());
  EXPECT_TRUE(parse("--speculation draft-model").has_draft_model());
  EXPECT_FALSE(self.self().has_exit_layer() || self.self().has_weights());
  EXPECT_EQ(parse("--speculation self:8").self().exit_layer(), 8u);
  EXPECT_EQ(parse("--speculation self:int4").self().weights(), v1::WEIGHT_FORMAT_INT4);
  const v1::Speculation all =
      parse("--speculation self:8:int8 --max-draft-tokens 5 --stop-confidence 0.5");
  EXPECT_EQ(all.self().exit_layer(), 8u);
  EXPECT_EQ(all.self().weights(), v1::WEIGHT_FORMAT_INT8);
  EXPECT_EQ(all.max_draft_tokens(), 5u);
  EXPECT_EQ(all.stop_confidence(), 0.5f);
  const v1::Speculation skipping = parse("--speculation self:20:bf16:skip=4+19");
  EXPECT_EQ(skipping.self().weights(), v1::WEIGHT_FORMAT_BF16);
  EXPECT_THAT(skipping.self().skipped_layers(), testing::ElementsAre(4, 19));
  EXPECT_THAT(parse("--speculation self:skip=0").self().skipped_layers(), testing::ElementsAre(0));
  for (const char* bad :
       {"self:int3", "self:skip=", "self:skip=1,2", "self:skip=1:8", "self:8:8", "self:int8:8",
        "self:", "lookup:4", "off:shared", "lookup:shared:4", "head:2", "oracle"}) {
    v1::GenerateRequest request;
    const absl::Status status = Parse(std::string("--speculation ") + bad, &request);
    EXPECT_THAT(std::string(status.message()), testing::HasSubstr("--speculation")) << bad;
  }
}

TEST(SamplingFlags, NameTheFlagThatCannotBeRead) {
  for (const char* bad :
       {"--max-tokens -1", "--max-tokens x", "--top-k 1.5", "--seed -1", "--logit-bias 5",
        "--logit-bias x=1", "--logit-bias 5=x", "--logit-bias -1=1",
        "--logit-bias 5=1 --logit-bias 5=2", "--weights int3", "--weights unspecified"}) {
    v1::GenerateRequest request;
    const absl::Status status = Parse(bad, &request);
    const std::string flag = std::string(bad).substr(0, std::string(bad).find(' '));
    EXPECT_THAT(std::string(status.message()), testing::HasSubstr(flag)) << bad;
  }
}

}  // namespace
}  // namespace skim
