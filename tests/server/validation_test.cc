// Whatever a client can get wrong: the code, and the field that the details name.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <limits>

#include "tests/server/test_server.h"

namespace skim {
namespace {

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr float kInf = std::numeric_limits<float>::infinity();
using grpc::StatusCode;

struct BadRequestCase {
  const char* what;
  std::function<void(v1::GenerateRequest*)> spoil;  // a valid text request
  StatusCode code;
  const char* field;
};

BadRequestCase Sampling(const char* what, std::function<void(v1::Sampling*)> spoil,
                        const char* field) {
  return {what, [spoil](v1::GenerateRequest* r) { spoil(r->mutable_sampling()); },
          StatusCode::INVALID_ARGUMENT, field};
}

std::vector<BadRequestCase> FloatCases() {
  using Setter = void (v1::Sampling::*)(float);
  struct Float {
    const char* field;
    Setter set;
    std::vector<float> bad;
  };
  const Float floats[] = {
      {"sampling.temperature", &v1::Sampling::set_temperature, {-1, -1e-30f}},
      {"sampling.top_p", &v1::Sampling::set_top_p, {0, -0.5f, 1.001f}},
      {"sampling.min_p", &v1::Sampling::set_min_p, {-0.1f, 1.5f}},
      {"sampling.repetition_penalty", &v1::Sampling::set_repetition_penalty, {0, -1}},
      {"sampling.frequency_penalty", &v1::Sampling::set_frequency_penalty, {-2.1f, 3}},
      {"sampling.presence_penalty", &v1::Sampling::set_presence_penalty, {-2.1f, 3}},
  };
  std::vector<BadRequestCase> cases;
  for (const Float& f : floats) {
    std::vector<float> bad = f.bad;
    bad.insert(bad.end(), {kNan, kInf, -kInf});
    for (float value : bad) {
      cases.push_back(
          Sampling(f.field, [set = f.set, value](v1::Sampling* s) { (s->*set)(value); }, f.field));
    }
  }
  return cases;
}

std::vector<BadRequestCase> SamplingCases() {
  return {
      Sampling(
          "max_tokens 0", [](auto* s) { s->set_max_tokens(0); }, "sampling.max_tokens"),
      Sampling(
          "min_tokens over max_tokens",
          [](auto* s) {
            s->set_max_tokens(4);
            s->set_min_tokens(5);
          },
          "sampling.min_tokens"),
      Sampling(
          "n 0", [](auto* s) { s->set_n(0); }, "sampling.n"),
      Sampling(
          "n 10,000", [](auto* s) { s->set_n(10'000); }, "sampling.n"),
      Sampling(
          "n of 32 bits", [](auto* s) { s->set_n(UINT32_MAX); }, "sampling.n"),
      Sampling(
          "10,000 stop strings",
          [](auto* s) {
            for (int i = 0; i < 10'000; ++i) s->add_stop(std::string(1, 'x'));
          },
          "sampling.stop"),
      Sampling(
          "empty stop string",
          [](auto* s) {
            s->add_stop("fine");
            s->add_stop("");
          },
          "sampling.stop[1]"),
      Sampling(
          "long stop string", [](auto* s) { s->add_stop(std::string(257, 'x')); },
          "sampling.stop[0]"),
      Sampling(
          "65 stop tokens",
          [](auto* s) {
            for (int i = 0; i < 65; ++i) s->add_stop_token_ids(1);
          },
          "sampling.stop_token_ids"),
      Sampling(
          "stop token beyond the vocabulary",
          [](auto* s) { s->add_stop_token_ids(kTestVocabulary); }, "sampling.stop_token_ids[0]"),
      Sampling(
          "stop token that is negative as a signed number",
          [](auto* s) { s->add_stop_token_ids(UINT32_MAX); }, "sampling.stop_token_ids[0]"),
      Sampling(
          "forced token beyond the vocabulary",
          [](auto* s) {
            s->add_forced_token_ids(7);
            s->add_forced_token_ids(kTestVocabulary);
          },
          "sampling.forced_token_ids[1]"),
      Sampling(
          "more forced tokens than max_tokens",
          [](auto* s) {
            s->set_max_tokens(1);
            s->add_forced_token_ids(7);
            s->add_forced_token_ids(8);
          },
          "sampling.forced_token_ids"),
      Sampling(
          "forced stop token",
          [](auto* s) {
            s->add_forced_token_ids(7);
            s->add_stop_token_ids(7);
          },
          "sampling.forced_token_ids[0]"),
      Sampling(
          "bias beyond the vocabulary",
          [](auto* s) { (*s->mutable_logit_bias())[kTestVocabulary] = 1; },
          "sampling.logit_bias[270]"),
      Sampling(
          "bias NaN", [](auto* s) { (*s->mutable_logit_bias())[7] = kNan; },
          "sampling.logit_bias[7]"),
      Sampling(
          "bias infinite", [](auto* s) { (*s->mutable_logit_bias())[7] = -kInf; },
          "sampling.logit_bias[7]"),
      Sampling(
          "1025 biases",
          [](auto* s) {
            for (uint32_t i = 0; i < 1025; ++i) (*s->mutable_logit_bias())[i] = 1;
          },
          "sampling.logit_bias"),
  };
}

std::vector<BadRequestCase> InputCases() {
  const auto invalid = StatusCode::INVALID_ARGUMENT;
  return {
      {"no input", [](auto* r) { r->clear_text(); }, invalid, "input"},
      {"empty text", [](auto* r) { r->set_text(""); }, invalid, "text"},
      {"no ids", [](auto* r) { r->mutable_token_ids(); }, invalid, "token_ids"},
      {"id beyond the vocabulary",
       [](auto* r) {
         r->mutable_token_ids()->add_ids(1);
         r->mutable_token_ids()->add_ids(kTestVocabulary);
       },
       invalid, "token_ids.ids[1]"},
      {"id of 32 bits", [](auto* r) { r->mutable_token_ids()->add_ids(UINT32_MAX); }, invalid,
       "token_ids.ids[0]"},
      {"no messages", [](auto* r) { r->mutable_chat(); }, invalid, "chat.messages"},
      {"1025 messages",
       [](auto* r) {
         for (int i = 0; i < 1025; ++i) r->mutable_chat()->add_messages()->set_role("user");
       },
       invalid, "chat.messages"},
      {"message without a role",
       [](auto* r) { r->mutable_chat()->add_messages()->set_content("hi"); }, invalid,
       "chat.messages[0].role"},
      {"a role that the template refuses",
       [](auto* r) { r->mutable_chat()->add_messages()->set_role("forbidden"); }, invalid, "chat"},
      {"special tokens parsed in a chat",
       [](auto* r) {
         r->mutable_chat()->add_messages()->set_role("user");
         r->set_parse_special_tokens(false);
       },
       invalid, "parse_special_tokens"},
      {"prompt as long as the context",
       [](auto* r) { r->set_text(std::string(kTestContext, 'x')); }, StatusCode::OUT_OF_RANGE,
       "text"},
      {"prompt far beyond the context", [](auto* r) { r->set_text(std::string(1 << 20, 'x')); },
       StatusCode::OUT_OF_RANGE, "text"},
      {"no room for min_tokens",
       [](auto* r) { r->mutable_sampling()->set_min_tokens(kTestContext); },
       StatusCode::OUT_OF_RANGE, "sampling.min_tokens"},
      {"another model", [](auto* r) { r->set_model("gpt"); }, StatusCode::NOT_FOUND, "model"},
      {"long request id", [](auto* r) { r->set_request_id(std::string(257, 'x')); }, invalid,
       "request_id"},
      {"request id that breaks the log line", [](auto* r) { r->set_request_id("a\nb"); }, invalid,
       "request_id"},
      {"long tenant", [](auto* r) { r->set_tenant(std::string(257, 'x')); }, invalid, "tenant"},
      {"long salt", [](auto* r) { r->set_cache_salt(std::string(257, 'x')); }, invalid,
       "cache_salt"},
      {"no time", [](auto* r) { r->set_time_limit_ms(0); }, invalid, "time_limit_ms"},
  };
}

std::vector<BadRequestCase> OptionCases() {
  const auto invalid = StatusCode::INVALID_ARGUMENT;
  const auto unimplemented = StatusCode::UNIMPLEMENTED;
  return {
      {"too many logprobs", [](auto* r) { r->mutable_output()->set_logprobs(21); }, invalid,
       "output.logprobs"},
      {"prompt logprobs without logprobs",
       [](auto* r) { r->mutable_output()->set_prompt_logprobs(true); }, invalid,
       "output.prompt_logprobs"},
      {"lazy prefill", [](auto* r) { r->mutable_prefill()->mutable_lazy(); }, unimplemented,
       "prefill.lazy"},
      {"int4 weights", [](auto* r) { r->set_weights(v1::WEIGHT_FORMAT_INT4); }, unimplemented,
       "weights"},
      {"unknown weights", [](auto* r) { r->set_weights(static_cast<v1::WeightFormat>(77)); },
       invalid, "weights"},
      {"a drafter that is not there", [](auto* r) { r->mutable_speculation()->mutable_head(); },
       unimplemented, "speculation.head"},
      {"draft length without a drafter",
       [](auto* r) { r->mutable_speculation()->set_max_draft_tokens(4); }, invalid,
       "speculation.max_draft_tokens"},
      {"draft confidence without a drafter",
       [](auto* r) { r->mutable_speculation()->set_stop_confidence(kNan); }, invalid,
       "speculation.stop_confidence"},
      {"a field of a later version",
       [](auto* r) { r->GetReflection()->MutableUnknownFields(r)->AddVarint(900, 1); },
       unimplemented, "skim.v1.GenerateRequest.900"},
      {"a nested field of a later version",
       [](auto* r) {
         auto* s = r->mutable_sampling();
         s->GetReflection()->MutableUnknownFields(s)->AddVarint(901, 1);
       },
       unimplemented, "skim.v1.Sampling.901"},
  };
}

TEST(Validation, RefusesEveryBadFieldByNameAndLeavesOtherStreamsAlone) {
  TestServer server;
  server.engine().set_step_delay_us(1000);
  grpc::ClientContext context;
  v1::GenerateRequest endless = EndlessRequest("I was here before", 480);
  const auto bystander = server.stub().Generate(&context, endless);

  int cases = 0;
  for (const auto& list : {FloatCases(), SamplingCases(), InputCases(), OptionCases()}) {
    for (const BadRequestCase& c : list) {
      v1::GenerateRequest request = TextRequest("fine");
      c.spoil(&request);
      const Outcome outcome = server.Generate(request);
      EXPECT_EQ(outcome.status.error_code(), c.code)
          << c.what << ": " << outcome.status.error_message();
      EXPECT_EQ(ViolatedField(outcome.status), c.field) << c.what;
      EXPECT_TRUE(outcome.choices.empty()) << c.what;
      ++cases;
    }
  }
  EXPECT_GT(cases, 60);
  EXPECT_EQ(server.Metric("skim_requests_refused_total"), cases);

  Outcome outcome;
  for (v1::GenerateResponse response; bystander->Read(&response);) outcome.Add(response);
  EXPECT_TRUE(bystander->Finish().ok());
  EXPECT_EQ(outcome.only().token_ids.size(), 480u);
}

TEST(Validation, AcceptsWhatTheContractAllowsAtItsEdges) {
  TestServer server;
  v1::GenerateRequest request = TextRequest("fine");
  request.set_model("echo");
  request.mutable_prefill()->mutable_exact();
  request.set_weights(v1::WEIGHT_FORMAT_BF16);
  request.mutable_speculation()->mutable_off();
  v1::Sampling* sampling = request.mutable_sampling();
  sampling->set_temperature(0);
  sampling->set_top_k(UINT32_MAX);
  sampling->set_top_p(1);
  sampling->set_min_p(1);
  sampling->set_repetition_penalty(1e-30f);
  sampling->set_frequency_penalty(-2);
  sampling->set_presence_penalty(2);
  sampling->set_max_tokens(UINT32_MAX);
  sampling->set_n(8);
  request.set_priority(INT32_MIN);
  request.set_time_limit_ms(UINT32_MAX);
  for (uint32_t i = 0; i < 200; ++i) (*sampling->mutable_logit_bias())[i] = -1e30f;
  for (int i = 0; i < 16; ++i) sampling->add_stop(std::string(256, 'x'));
  request.mutable_output()->set_logprobs(20);
  const Outcome outcome = server.Generate(request);
  ASSERT_TRUE(outcome.status.ok()) << outcome.status.error_message();
  EXPECT_EQ(outcome.choices.size(), 8u);

  request = TextRequest(std::string(kTestContext - 1, 'x'));
  EXPECT_EQ(server.Generate(request).only().token_ids.size(), 1u);
}

TEST(Validation, NamesTheResidentWeightFormats) {
  TestServer server;
  v1::GenerateRequest request = TextRequest("fine");
  request.set_weights(v1::WEIGHT_FORMAT_FP8);
  const grpc::Status status = server.Generate(request).status;
  EXPECT_EQ(status.error_code(), StatusCode::UNIMPLEMENTED);
  EXPECT_EQ(ViolatedField(status), "weights");
  EXPECT_EQ(status.error_message(),
            "weights: WEIGHT_FORMAT_FP8 is not resident; this server has bf16, int8");
}

TEST(Validation, HonoursTheServersOwnLimits) {
  TestServerOptions options;
  options.limits.max_output_tokens = 5;
  options.limits.max_n = 2;
  TestServer server(options);
  EXPECT_EQ(server.Generate(TextRequest("0123456789")).only().text, "01234");
  v1::GenerateRequest request = TextRequest("0123456789");
  request.mutable_sampling()->set_max_tokens(6);
  EXPECT_EQ(ViolatedField(server.Generate(request).status), "sampling.max_tokens");
  request.mutable_sampling()->set_max_tokens(5);
  request.mutable_sampling()->set_n(3);
  EXPECT_EQ(ViolatedField(server.Generate(request).status), "sampling.n");
}

TEST(Validation, RefusesMessagesThatAreNoProtobufOrTooLarge) {
  TestServerOptions options;
  options.stack.rpc.max_message_bytes = 1 << 16;
  TestServer server(options);
  EXPECT_EQ(server.Generate(TextRequest(std::string(1 << 17, 'x'))).status.error_code(),
            StatusCode::RESOURCE_EXHAUSTED);
  // Text that is no UTF-8 does not parse as a proto3 string.
  EXPECT_FALSE(server.Generate(TextRequest("\xff\xfe")).status.ok());
  EXPECT_EQ(server.Generate(TextRequest("still here")).only().text, "still here");
}

TEST(Validation, TokenizesAndDetokenizes) {
  TestServer server;
  v1::TokenizeRequest request;
  v1::TokenizeResponse tokens;
  request.set_text("STé");
  {
    grpc::ClientContext context;
    ASSERT_TRUE(server.stub().Tokenize(&context, request, &tokens).ok());
  }
  ASSERT_EQ(tokens.ids_size(), 3);
  EXPECT_EQ(tokens.ids(0), static_cast<uint32_t>(kStToken));
  EXPECT_EQ(tokens.texts(0), "ST");

  v1::DetokenizeRequest ids;
  v1::DetokenizeResponse text;
  *ids.mutable_ids() = tokens.ids();
  {
    grpc::ClientContext context;
    ASSERT_TRUE(server.stub().Detokenize(&context, ids, &text).ok());
  }
  EXPECT_EQ(text.text(), "STé");

  ids.add_ids(kByteVocabulary);
  grpc::ClientContext context;
  EXPECT_EQ(ViolatedField(server.stub().Detokenize(&context, ids, &text)), "ids[3]");
  grpc::ClientContext second;
  EXPECT_EQ(ViolatedField(server.stub().Tokenize(&second, {}, &tokens)), "input");
}

TEST(Validation, DescribesTheModel) {
  TestServer server;
  grpc::ClientContext context;
  v1::GetModelResponse model;
  ASSERT_TRUE(server.stub().GetModel(&context, {}, &model).ok());
  EXPECT_EQ(model.name(), "echo");
  EXPECT_EQ(model.vocabulary(), static_cast<uint32_t>(kTestVocabulary));
  EXPECT_EQ(model.max_context(), static_cast<uint32_t>(kTestContext));
  EXPECT_TRUE(model.has_chat_template());
  ASSERT_EQ(model.end_token_ids_size(), 1);
  EXPECT_EQ(model.end_token_ids(0), static_cast<uint32_t>(kEndToken));
  EXPECT_THAT(model.weight_formats(),
              testing::ElementsAre(v1::WEIGHT_FORMAT_BF16, v1::WEIGHT_FORMAT_INT8));
  EXPECT_THAT(model.weight_format_bytes(), testing::ElementsAre(4000, 2000));
  EXPECT_EQ(model.common_weight_bytes(), 300u);
  EXPECT_EQ(model.kv_format(), "fp8");
  EXPECT_EQ(model.kv_cache_tokens(), 12345u);
}

}  // namespace
}  // namespace skim
