// Streams over a real socket, on an engine that echoes the prompt.
#include <gtest/gtest.h>

#include <chrono>

#include "tests/server/test_server.h"

namespace skim {
namespace {

class GenerateTest : public testing::Test {
 protected:
  TestServer server_;
};

TEST_F(GenerateTest, StreamsEveryTokenOnceInOrderAndOneFinal) {
  const std::string text = "The quick brown fox jumps over the lazy dog.";
  v1::GenerateRequest request = TextRequest(text);
  request.set_request_id("fox-1");
  request.mutable_sampling()->set_seed(99);
  const Outcome outcome = server_.Generate(request);
  ASSERT_TRUE(outcome.status.ok()) << outcome.status.error_message();
  ASSERT_EQ(outcome.choices.size(), 1u);
  const auto& choice = outcome.only();
  EXPECT_EQ(choice.text, text);
  ASSERT_EQ(choice.token_ids.size(), text.size() + 1);
  EXPECT_EQ(Text(choice.token_ids), text);
  EXPECT_EQ(choice.token_ids.back(), kEndToken);
  EXPECT_EQ(choice.finals, 1);
  EXPECT_EQ(choice.after_final, 0);
  EXPECT_EQ(choice.final.finish_reason(), v1::FINISH_REASON_STOP);
  EXPECT_EQ(choice.final.stop_token_id(), kEndToken);
  EXPECT_EQ(choice.final.usage().prompt_tokens(), text.size());
  EXPECT_EQ(choice.final.usage().generated_tokens(), text.size() + 1);
  EXPECT_EQ(choice.final.seed(), 99u);
  EXPECT_EQ(choice.final.request_id(), "fox-1");
}

TEST_F(GenerateTest, SendsTheFirstTokenBeforeTheSecondExists) {
  server_.engine().PauseAfter(1);
  grpc::ClientContext context;
  const auto reader = server_.stub().Generate(&context, TextRequest("hello"));
  v1::GenerateResponse response;
  ASSERT_TRUE(reader->Read(&response));
  EXPECT_EQ(response.delta().text(), "h");
  server_.engine().Resume();
  Outcome rest;
  while (reader->Read(&response)) rest.Add(response);
  EXPECT_EQ(rest.only().text, "ello");
  EXPECT_TRUE(reader->Finish().ok());
}

TEST_F(GenerateTest, ReportsTimingsThatAddUp) {
  server_.engine().set_step_delay_us(1000);
  const Outcome outcome = server_.Generate(TextRequest("0123456789"));
  const v1::Timings& timings = outcome.only().final.timings();
  EXPECT_GE(timings.queue_ms(), 0);
  EXPECT_GE(timings.time_to_first_token_ms(), timings.queue_ms() + 1);
  EXPECT_GE(timings.generation_ms(), 10);
  EXPECT_NEAR(timings.mean_inter_token_ms() * 10, timings.generation_ms(), 1e-6);
  EXPECT_NEAR(timings.tokens_per_s() * timings.mean_inter_token_ms(), 1000, 1e-6);
}

TEST_F(GenerateTest, NeverSplitsACharacterBetweenDeltas) {
  const std::string text = "naïve — 数学 🎉 ok";
  server_.engine().set_step_delay_us(300);
  grpc::ClientContext context;
  const auto reader = server_.stub().Generate(&context, TextRequest(text));
  std::string all;
  for (v1::GenerateResponse response; reader->Read(&response);) {
    const std::string& piece = response.delta().text();
    // A whole character never begins with a continuation byte.
    EXPECT_TRUE(piece.empty() || (piece[0] & 0xc0) != 0x80) << piece;
    all += piece;
  }
  EXPECT_TRUE(reader->Finish().ok());
  EXPECT_EQ(all, text);
}

TEST_F(GenerateTest, TurnsACharacterCutOffByTheLimitIntoAReplacement) {
  v1::GenerateRequest request = TextRequest("a🎉");
  request.mutable_sampling()->set_max_tokens(3);
  const Outcome outcome = server_.Generate(request);
  EXPECT_EQ(outcome.only().text, "a\uFFFD");
  EXPECT_EQ(outcome.only().final.finish_reason(), v1::FINISH_REASON_LENGTH);
  EXPECT_EQ(outcome.only().final.usage().generated_tokens(), 3u);
}

struct StopCase {
  std::string text;
  std::vector<std::string> stops;
  bool include;
  std::string expected;
  std::string matched;
  size_t tokens;
};

TEST_F(GenerateTest, CutsAtTheEarliestStopString) {
  const StopCase cases[] = {
      {"one two three", {"two"}, false, "one ", "two", 7},
      {"one two three", {"two"}, true, "one two", "two", 7},
      {"say STOP now", {"STOP"}, false, "say ", "STOP", 6},  // split over two tokens
      {"say STOP now", {"TO"}, false, "say S", "TO", 6},     // inside and across tokens
      {"say STOP now", {"TO"}, true, "say STO", "TO", 6},
      {"x STSTOP y", {"STOP"}, false, "x ST", "STOP", 5},
      {"a数学b", {"学"}, false, "a数", "学", 7},  // one character, three tokens
      {"aé", {"é", "z"}, false, "a", "é", 3},
      {"abcd", {"d", "bc"}, false, "a", "bc", 3},
      {"abcd", {"abcd", "cd"}, false, "", "abcd", 4},
      {"ab|end|", {"|end|"}, false, "ab", "|end|", 7},
  };
  for (const StopCase& c : cases) {
    v1::GenerateRequest request = TextRequest(c.text);
    for (const auto& stop : c.stops) request.mutable_sampling()->add_stop(stop);
    request.mutable_output()->set_include_stop(c.include);
    const Outcome outcome = server_.Generate(request);
    ASSERT_TRUE(outcome.status.ok()) << outcome.status.error_message();
    EXPECT_EQ(outcome.only().text, c.expected) << c.text;
    EXPECT_EQ(outcome.only().final.finish_reason(), v1::FINISH_REASON_STOP) << c.text;
    EXPECT_EQ(outcome.only().final.stop_string(), c.matched) << c.text;
    EXPECT_EQ(outcome.only().final.usage().generated_tokens(), c.tokens) << c.text;
    EXPECT_EQ(outcome.only().token_ids.size(), c.tokens) << c.text;
    EXPECT_EQ(outcome.only().finals, 1) << c.text;
  }
}

TEST_F(GenerateTest, GivesOutTextHeldBackForAStopStringThatNeverCame) {
  v1::GenerateRequest request = TextRequest("the end ST");
  request.mutable_sampling()->add_stop("STOP");
  const Outcome outcome = server_.Generate(request);
  EXPECT_EQ(outcome.only().text, "the end ST");
  EXPECT_EQ(outcome.only().final.stop_token_id(), kEndToken);
}

TEST_F(GenerateTest, CountsAStopStringAsStopNotAsCancelled) {
  v1::GenerateRequest request = EndlessRequest("go on STOP", 400);
  request.mutable_sampling()->add_stop("STOP");
  EXPECT_EQ(server_.Generate(request).only().text, "go on ");
  server_.ExpectIdle();
  EXPECT_EQ(server_.Metric("skim_requests_finished_total", {{"reason", "stop"}}), 1);
  EXPECT_EQ(server_.Metric("skim_requests_finished_total", {{"reason", "cancelled"}}), 0);
}

TEST_F(GenerateTest, StopTokensEndTheOutputAndStayOutOfTheText) {
  v1::GenerateRequest request = TextRequest("left|right");
  request.mutable_sampling()->add_stop_token_ids('|');
  Outcome outcome = server_.Generate(request);
  EXPECT_EQ(outcome.only().text, "left");
  EXPECT_EQ(Text(outcome.only().token_ids), "left|");
  EXPECT_EQ(outcome.only().final.stop_token_id(), static_cast<uint32_t>('|'));
  request.mutable_output()->set_include_stop(true);
  EXPECT_EQ(server_.Generate(request).only().text, "left|");
}

TEST_F(GenerateTest, DoesNotLookForStopsBeforeMinTokens) {
  v1::GenerateRequest request = TextRequest("a.b.c.d");
  request.mutable_sampling()->add_stop(".");
  request.mutable_sampling()->set_min_tokens(4);
  EXPECT_EQ(server_.Generate(request).only().text, "a.b.c");
}

TEST_F(GenerateTest, EndsAtMaxTokensAndAtTheContext) {
  Outcome outcome = server_.Generate(EndlessRequest("abc", 7));
  EXPECT_EQ(Text(outcome.only().token_ids), "abcabc");  // the end token between them
  EXPECT_EQ(outcome.only().token_ids.size(), 7u);
  EXPECT_EQ(outcome.only().final.finish_reason(), v1::FINISH_REASON_LENGTH);

  v1::GenerateRequest request = TextRequest("abc");
  request.mutable_sampling()->set_ignore_eos(true);
  outcome = server_.Generate(request);
  EXPECT_EQ(outcome.only().final.finish_reason(), v1::FINISH_REASON_LENGTH);
  EXPECT_EQ(outcome.only().final.usage().generated_tokens(), kTestContext - 3u);
}

TEST_F(GenerateTest, SkipsSpecialTokensInTheTextUnlessAskedFor) {
  v1::GenerateRequest request = EndlessRequest("ab", 5);
  EXPECT_EQ(server_.Generate(request).only().text, "abab");
  request.mutable_output()->set_skip_special_tokens(false);
  EXPECT_EQ(server_.Generate(request).only().text, "ab<|end|>ab");
}

TEST_F(GenerateTest, KeepsUsersTextFromBecomingSpecialTokens) {
  v1::GenerateRequest request = TextRequest("<|start|>");
  EXPECT_EQ(server_.Generate(request).only().final.usage().prompt_tokens(), 9u);
  request.set_parse_special_tokens(true);
  EXPECT_EQ(server_.Generate(request).only().final.usage().prompt_tokens(), 1u);
}

TEST_F(GenerateTest, RendersChats) {
  v1::GenerateRequest request;
  auto* message = request.mutable_chat()->add_messages();
  message->set_role("user");
  message->set_content("hi <|end|>");
  request.mutable_output()->set_skip_special_tokens(false);
  EXPECT_EQ(server_.Generate(request).only().text, "<|start|>user:hi <|end|><|start|>assistant:");
  request.mutable_chat()->set_add_generation_prompt(false);
  EXPECT_EQ(server_.Generate(request).only().text, "<|start|>user:hi <|end|>");
}

TEST_F(GenerateTest, TakesTokenIdsAndLeavesOutWhatWasNotAskedFor) {
  v1::GenerateRequest request;
  for (uint32_t id : {'a', 'b', 'c'}) request.mutable_token_ids()->add_ids(id);
  request.mutable_output()->set_text(false);
  Outcome outcome = server_.Generate(request);
  EXPECT_EQ(outcome.only().text, "");
  EXPECT_EQ(Text(outcome.only().token_ids), "abc");
  request.mutable_output()->set_text(true);
  request.mutable_output()->set_token_ids(false);
  outcome = server_.Generate(request);
  EXPECT_EQ(outcome.only().text, "abc");
  EXPECT_TRUE(outcome.only().token_ids.empty());
}

TEST_F(GenerateTest, SurvivesIdsThatTheTokenizerDoesNotKnow) {
  v1::GenerateRequest request;
  for (uint32_t id : {uint32_t{'a'}, uint32_t{kTestVocabulary - 1}, uint32_t{'b'}}) {
    request.mutable_token_ids()->add_ids(id);
  }
  request.mutable_output()->set_logprobs(1);
  const Outcome outcome = server_.Generate(request);
  ASSERT_TRUE(outcome.status.ok()) << outcome.status.error_message();
  EXPECT_EQ(outcome.only().token_ids.size(), 4u);
  EXPECT_EQ(outcome.only().text.front(), 'a');
  EXPECT_EQ(outcome.only().text.back(), 'b');
}

TEST_F(GenerateTest, ReportsLogprobsParallelToTheTokens) {
  v1::GenerateRequest request = TextRequest("xyz");
  request.mutable_output()->set_logprobs(2);
  request.mutable_output()->set_prompt_logprobs(true);
  const Outcome outcome = server_.Generate(request);
  ASSERT_TRUE(outcome.status.ok()) << outcome.status.error_message();
  const auto& choice = outcome.only();
  ASSERT_EQ(choice.logprobs.size(), choice.token_ids.size());
  for (size_t i = 0; i < choice.logprobs.size(); ++i) {
    EXPECT_EQ(choice.logprobs[i].token_id(), choice.token_ids[i]);
    EXPECT_EQ(choice.logprobs[i].logprob(), EchoEngine::Logprob(choice.token_ids[i]));
    EXPECT_EQ(choice.logprobs[i].top_size(), 2);
  }
  EXPECT_EQ(choice.logprobs[0].text(), "x");
  ASSERT_EQ(choice.prompt_logprobs.size(), 2u);  // the first prompt token has none
  EXPECT_EQ(choice.prompt_logprobs[0].text(), "y");
  EXPECT_EQ(choice.prompt_logprobs[1].text(), "z");
}

TEST_F(GenerateTest, GivesEachChoiceItsSeedAndOneFinal) {
  v1::GenerateRequest request = TextRequest("several choices of one prompt, please");
  request.mutable_sampling()->set_n(5);
  request.mutable_sampling()->set_seed(UINT64_MAX - 1);
  const Outcome outcome = server_.Generate(request);
  ASSERT_TRUE(outcome.status.ok()) << outcome.status.error_message();
  ASSERT_EQ(outcome.choices.size(), 5u);
  for (const auto& [index, choice] : outcome.choices) {
    EXPECT_EQ(choice.text, request.text());
    EXPECT_EQ(choice.finals, 1);
    EXPECT_EQ(choice.final.seed(), UINT64_MAX - 1 + index);
    EXPECT_EQ(choice.after_final, 0);
  }
}

TEST_F(GenerateTest, ComputesWithTheWeightsAskedForAndSaysSo) {
  v1::GenerateRequest request = TextRequest("abc");
  EXPECT_EQ(server_.Generate(request).only().final.weights(), v1::WEIGHT_FORMAT_BF16);
  request.set_weights(v1::WEIGHT_FORMAT_UNSPECIFIED);
  EXPECT_EQ(server_.Generate(request).only().final.weights(), v1::WEIGHT_FORMAT_BF16);
  EXPECT_EQ(server_.Metric("skim_rows_total", {{"format", "int8"}}), 0);
  request.set_weights(v1::WEIGHT_FORMAT_INT8);
  const Outcome outcome = server_.Generate(request);
  EXPECT_EQ(outcome.only().final.weights(), v1::WEIGHT_FORMAT_INT8);
  EXPECT_GT(server_.Metric("skim_rows_total", {{"format", "int8"}}), 0);
  EXPECT_NE(server_.log().find("weights=int8"), std::string::npos);
}

TEST_F(GenerateTest, TakesNothingFromThePrefixCacheOfOtherWeights) {
  v1::GenerateRequest request = TextRequest(std::string(100, 'x'));
  const auto cached = [&](v1::WeightFormat weights) {
    request.set_weights(weights);
    return server_.Generate(request).only().final.usage().cached_tokens();
  };
  EXPECT_EQ(cached(v1::WEIGHT_FORMAT_BF16), 0u);
  EXPECT_EQ(cached(v1::WEIGHT_FORMAT_INT8), 0u);
  EXPECT_GT(cached(v1::WEIGHT_FORMAT_INT8), 0u);
  EXPECT_GT(cached(v1::WEIGHT_FORMAT_BF16), 0u);
}

TEST_F(GenerateTest, DrawsADifferentSeedForEveryCall) {
  const uint64_t first = server_.Generate(TextRequest("a")).only().final.seed();
  EXPECT_NE(first, server_.Generate(TextRequest("a")).only().final.seed());
}

TEST_F(GenerateTest, EndsAtTheTimeLimitWithWhatIsThere) {
  server_.engine().set_step_delay_us(2000);
  v1::GenerateRequest request = EndlessRequest("tick", 400);
  request.set_time_limit_ms(100);
  const Outcome outcome = server_.Generate(request);
  ASSERT_TRUE(outcome.status.ok()) << outcome.status.error_message();
  EXPECT_EQ(outcome.only().final.finish_reason(), v1::FINISH_REASON_TIME_LIMIT);
  EXPECT_LT(outcome.only().token_ids.size(), 400u);
}

TEST_F(GenerateTest, FreesEverythingWhenTheClientCancels) {
  server_.engine().set_step_delay_us(500);
  grpc::ClientContext context;
  v1::GenerateRequest request = EndlessRequest("cancel me", 400);
  request.mutable_sampling()->set_n(3);
  const auto reader = server_.stub().Generate(&context, request);
  v1::GenerateResponse response;
  ASSERT_TRUE(reader->Read(&response));
  context.TryCancel();
  while (reader->Read(&response)) continue;
  EXPECT_EQ(reader->Finish().error_code(), grpc::StatusCode::CANCELLED);
  server_.ExpectIdle();
  EXPECT_EQ(server_.Metric("skim_requests_finished_total", {{"reason", "cancelled"}}), 3);
}

TEST_F(GenerateTest, FreesEverythingAtTheCallsDeadline) {
  server_.engine().set_step_delay_us(2000);
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + std::chrono::milliseconds(100));
  const Outcome outcome = server_.Generate(EndlessRequest("late", 400), &context);
  // Both ends watch the same deadline; either may be first to act on it.
  if (outcome.status.ok()) {
    EXPECT_EQ(outcome.only().final.finish_reason(), v1::FINISH_REASON_TIME_LIMIT);
  } else {
    EXPECT_EQ(outcome.status.error_code(), grpc::StatusCode::DEADLINE_EXCEEDED);
  }
  server_.ExpectIdle();
}

TEST_F(GenerateTest, EndsEveryStreamOfABrokenDeviceWithInternalAndTurnsHealthOff) {
  server_.engine().Pause();
  grpc::ClientContext context;
  const auto reader = server_.stub().Generate(&context, TextRequest("doomed"));
  server_.engine().BreakDevice();
  server_.engine().Resume();
  v1::GenerateResponse response;
  EXPECT_FALSE(reader->Read(&response));
  EXPECT_EQ(reader->Finish().error_code(), grpc::StatusCode::INTERNAL);
  EXPECT_FALSE(server_.stack().CheckEngine());
}

TEST_F(GenerateTest, KeepsPromptsOutOfTheLog) {
  v1::GenerateRequest request = TextRequest("my secret diary");
  request.set_request_id("r-77");
  server_.Generate(request);
  request.mutable_sampling()->set_n(1000);
  server_.Generate(request);
  server_.ExpectIdle();
  EXPECT_EQ(server_.log().find("diary"), std::string::npos);
  EXPECT_NE(server_.log().find("id=r-77"), std::string::npos);
  EXPECT_NE(server_.log().find("field=sampling.n"), std::string::npos);
}

TEST_F(GenerateTest, ALogLineAndTheFinalMessageCarryTheTraceOfTheCall) {
  const std::string trace = "0af7651916cd43dd8448eb211c80319c";
  grpc::ClientContext context;
  context.AddMetadata("traceparent", "00-" + trace + "-b7ad6b7169203331-01");
  EXPECT_EQ(server_.Generate(TextRequest("traced"), &context).only().final.trace_id(), trace);
  EXPECT_EQ(server_.Generate(TextRequest("untraced")).only().final.trace_id(), "");
  grpc::ClientContext refused;
  refused.AddMetadata("traceparent", "00-" + trace + "-b7ad6b7169203331-00");
  EXPECT_FALSE(server_.Generate(TextRequest(""), &refused).status.ok());
  server_.ExpectIdle();
  const std::string log = server_.log();
  EXPECT_NE(log.find("trace=" + trace + " seq="), std::string::npos) << log;
  EXPECT_NE(log.find("trace=" + trace + " refused"), std::string::npos) << log;
  EXPECT_NE(log.find("trace= seq="), std::string::npos) << log;
}

TEST(GenerateLimits, RefusesWithRetryInfoWhenTheQueueIsFull) {
  TestServerOptions options;
  options.scheduler.max_running = 1;
  options.scheduler.max_waiting = 1;
  TestServer server(options);
  server.engine().Pause();
  std::vector<std::unique_ptr<grpc::ClientContext>> contexts;
  std::vector<std::unique_ptr<grpc::ClientReader<v1::GenerateResponse>>> readers;
  for (int i = 0; i < 8; ++i) {
    contexts.push_back(std::make_unique<grpc::ClientContext>());
    readers.push_back(server.stub().Generate(contexts.back().get(), TextRequest("crowd")));
  }
  while (server.Metric("skim_requests_refused_total") < 5) std::this_thread::yield();
  server.engine().Resume();
  int refused = 0;
  for (auto& reader : readers) {
    Outcome outcome;
    for (v1::GenerateResponse response; reader->Read(&response);) outcome.Add(response);
    outcome.status = reader->Finish();
    if (outcome.status.ok()) {
      EXPECT_EQ(outcome.only().text, "crowd");
      continue;
    }
    ++refused;
    EXPECT_EQ(outcome.status.error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
    EXPECT_TRUE(HasRetryInfo(outcome.status));
  }
  EXPECT_GE(refused, 5);
  EXPECT_LT(refused, 8);
}

}  // namespace
}  // namespace skim
