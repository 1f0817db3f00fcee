// inference.GRPCInferenceService over a real socket: the same requests as skim.v1, as tensors.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <thread>

#include "inference/grpc_service.grpc.pb.h"
#include "server/kserve_stream.h"
#include "tests/server/test_server.h"

namespace skim {
namespace {

using grpc::StatusCode;
using kserve::GRPCInferenceService;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::StartsWith;

constexpr char kFromTriton[] = R"({"temperature": "0", "max_tokens": "400"})";

void AddInput(const std::string& name, const std::string& datatype, std::string raw,
              kserve::ModelInferRequest* request) {
  auto* tensor = request->add_inputs();
  tensor->set_name(name);
  tensor->set_datatype(datatype);
  tensor->add_shape(1);
  request->add_raw_input_contents(std::move(raw));
}

std::string Lengthed(const std::string& bytes) {
  std::string raw;
  for (size_t shift = 0; shift < 32; shift += 8) raw += static_cast<char>(bytes.size() >> shift);
  return raw + bytes;
}

void AddText(const std::string& name, const std::string& text, kserve::ModelInferRequest* request) {
  AddInput(name, "BYTES", Lengthed(text), request);
}

void AddFlag(const std::string& name, bool value, kserve::ModelInferRequest* request) {
  AddInput(name, "BOOL", std::string(1, value ? 1 : 0), request);
}

kserve::ModelInferRequest Asking(const std::string& text,
                                 const std::string& sampling = kFromTriton) {
  kserve::ModelInferRequest request;
  request.set_model_name("echo");
  request.set_id("r-" + text);
  AddText("text_input", text, &request);
  AddText("sampling_parameters", sampling, &request);
  return request;
}

// Output -> its values, as text.
std::map<std::string, std::vector<std::string>> Values(const kserve::ModelInferResponse& response) {
  std::map<std::string, std::vector<std::string>> out;
  EXPECT_EQ(response.outputs_size(), response.raw_output_contents_size());
  for (int i = 0; i < response.outputs_size(); ++i) {
    const auto& tensor = response.outputs(i);
    const std::string& raw = response.raw_output_contents(i);
    const auto word = [&](size_t at) {
      uint32_t value = 0;
      std::memcpy(&value, raw.data() + at, sizeof(value));
      return value;
    };
    std::vector<std::string>& values = out[tensor.name()];
    for (size_t at = 0; at < raw.size(); at += 4) {
      if (tensor.datatype() == "BYTES") {
        values.push_back(raw.substr(at + 4, word(at)));
        at += word(at);
      } else if (tensor.datatype() == "UINT32") {
        values.push_back(std::to_string(word(at)));
      } else {
        values.push_back(std::to_string(std::bit_cast<float>(word(at))));
      }
    }
    EXPECT_THAT(tensor.shape(), ElementsAre(static_cast<int64_t>(values.size())));
  }
  return out;
}

bool IsFinal(const kserve::ModelInferResponse& response) {
  return response.parameters().at("triton_final_response").bool_param();
}

class KserveTest : public testing::Test {
 protected:
  grpc::Status Infer(const kserve::ModelInferRequest& request,
                     kserve::ModelInferResponse* response) {
    grpc::ClientContext context;
    return stub_->ModelInfer(&context, request, response);
  }
  std::map<std::string, std::vector<std::string>> Infer(const kserve::ModelInferRequest& request) {
    kserve::ModelInferResponse response;
    const grpc::Status status = Infer(request, &response);
    EXPECT_TRUE(status.ok()) << status.error_message();
    EXPECT_EQ(response.id(), request.id());
    EXPECT_EQ(response.model_name(), request.model_name());
    return Values(response);
  }

  TestServer server_;
  std::unique_ptr<GRPCInferenceService::Stub> stub_ =
      GRPCInferenceService::NewStub(server_.NewChannel());
};

TEST_F(KserveTest, AnswersInOnePieceBehindThePromptUnlessThatIsExcluded) {
  kserve::ModelInferRequest request = Asking("hello");
  EXPECT_THAT(Infer(request)["text_output"], ElementsAre("hellohello"));
  AddFlag("exclude_input_in_output", true, &request);
  const auto values = Infer(request);
  EXPECT_EQ(values.size(), 1u);
  EXPECT_THAT(values.at("text_output"), ElementsAre("hello"));
}

TEST_F(KserveTest, GivesEveryOutputThatIsAskedFor) {
  kserve::ModelInferRequest request =
      Asking("ab", R"({"n": 2, "logprobs": 1, "max_tokens": 400, "temperature": 0})");
  AddFlag("exclude_input_in_output", true, &request);
  for (const char* name : {"return_finish_reason", "return_cumulative_logprob", "return_logprobs",
                           "return_num_input_tokens", "return_num_output_tokens"}) {
    AddFlag(name, true, &request);
  }
  const auto values = Infer(request);
  EXPECT_THAT(values.at("text_output"), ElementsAre("ab", "ab"));
  EXPECT_THAT(values.at("finish_reason"), ElementsAre("stop", "stop"));
  EXPECT_THAT(values.at("num_input_tokens"), ElementsAre("2"));
  EXPECT_THAT(values.at("num_output_tokens"), ElementsAre("3", "3"));
  const float sum =
      EchoEngine::Logprob('a') + EchoEngine::Logprob('b') + EchoEngine::Logprob(kEndToken);
  EXPECT_THAT(values.at("cumulative_logprob"),
              ElementsAre(std::to_string(sum), std::to_string(sum)));
  const auto logprobs = nlohmann::json::parse(values.at("logprobs").front());
  ASSERT_EQ(logprobs.size(), 3u);
  EXPECT_EQ(logprobs[0]["97"]["logprob"], EchoEngine::Logprob('a'));
  EXPECT_EQ(logprobs[0]["97"]["decoded_token"], "a");
  EXPECT_TRUE(logprobs[0]["97"]["rank"].is_null());  // the best is token 0
  EXPECT_EQ(logprobs[0]["0"]["rank"], 1);
}

TEST_F(KserveTest, AnOutputThatIsNamedIsSentAndNoOther) {
  kserve::ModelInferRequest request = Asking("ab");
  request.add_outputs()->set_name("cumulative_logprob");
  request.add_outputs()->set_name("logprobs");
  const auto values = Infer(request);
  EXPECT_EQ(values.size(), 2u);
  EXPECT_EQ(values.at("cumulative_logprob").size(), 1u);
  EXPECT_THAT(values.at("logprobs"), ElementsAre("null"));  // sampling_parameters has none
}

TEST_F(KserveTest, TheModelsNameMayNameSavings) {
  kserve::ModelInferRequest request = Asking("ab");
  request.set_model_name("echo:int8");
  EXPECT_THAT(Infer(request)["text_output"], ElementsAre("abab"));
  EXPECT_GT(server_.Metric("skim_rows_total", {{"format", "int8"}}), 0);
  for (const auto& [name, ready] :
       {std::pair{"echo:int8", true}, std::pair{"echo:int4", false}, std::pair{"echo:self-1", true},
        std::pair{"echo:self-3", false}}) {
    grpc::ClientContext context;
    kserve::ModelReadyRequest ask;
    ask.set_name(name);
    kserve::ModelReadyResponse answer;
    EXPECT_TRUE(stub_->ModelReady(&context, ask, &answer).ok());
    EXPECT_EQ(answer.ready(), ready) << name;
  }
}

TEST_F(KserveTest, TakesTypedContentsToo) {
  kserve::ModelInferRequest request;
  request.set_model_name("echo");
  auto* text = request.add_inputs();
  text->set_name("text_input");
  text->set_datatype("BYTES");
  text->add_shape(1);
  text->mutable_contents()->add_bytes_contents("typed");
  auto* exclude = request.add_inputs();
  exclude->set_name("exclude_input_in_output");
  exclude->set_datatype("BOOL");
  exclude->add_shape(1);
  exclude->mutable_contents()->add_bool_contents(true);
  EXPECT_THAT(Infer(request)["text_output"], ElementsAre("typed"));
}

TEST_F(KserveTest, SilentSamplingMeansSixteenTokensAsWithTriton) {
  kserve::ModelInferRequest request = Asking("a text longer than sixteen tokens", "{}");
  AddFlag("return_finish_reason", true, &request);
  AddFlag("return_num_output_tokens", true, &request);
  const auto values = Infer(request);
  EXPECT_THAT(values.at("num_output_tokens"), ElementsAre("16"));
  EXPECT_THAT(values.at("finish_reason"), ElementsAre("length"));
}

TEST_F(KserveTest, ReadsSamplingParametersAsJson) {
  kserve::ModelInferRequest request =
      Asking("abcdef", R"({"stop": ["zz", "cd"], "max_tokens": 50.0, "top_k": -1, "seed": null,
                    "include_stop_str_in_output": "True", "logit_bias": {"7": -1},
                    "temperature": 0, "stop_token_ids": [1, "2"]})");
  AddFlag("exclude_input_in_output", true, &request);
  kserve::ModelInferResponse response;
  // 50.0 is no integer.
  EXPECT_EQ(ViolatedField(Infer(request, &response)), "sampling_parameters.max_tokens");
  request = Asking("abcdef", R"({"stop": "cd", "max_tokens": 50, "top_k": -1, "seed": null,
                                 "include_stop_str_in_output": "True", "logit_bias": {"7": -1},
                                 "temperature": 0, "stop_token_ids": [1, "2"]})");
  AddFlag("exclude_input_in_output", true, &request);
  EXPECT_THAT(Infer(request)["text_output"], ElementsAre("abcd"));
}

TEST_F(KserveTest, RefusesNamingTheField) {
  struct Case {
    StatusCode code;
    std::string field;
    std::function<void(kserve::ModelInferRequest*)> spoil;
  };
  const auto sampling = [](const char* json) {
    return [json](kserve::ModelInferRequest* r) { r->set_raw_input_contents(1, Lengthed(json)); };
  };
  const StatusCode invalid = StatusCode::INVALID_ARGUMENT;
  const StatusCode unserved = StatusCode::UNIMPLEMENTED;
  const std::vector<Case> cases = {
      {invalid, "inputs[2].name", [](auto* r) { AddText("text_imput", "x", r); }},
      {invalid, "stream", [](auto* r) { AddInput("stream", "INT32", std::string(4, 0), r); }},
      {invalid, "stream", [](auto* r) { AddFlag("stream", true, r); }},  // here only
      {invalid, "text_input", [](auto* r) { AddText("text_input", "again", r); }},
      {invalid, "text_input", [](auto* r) { r->mutable_inputs(0)->set_shape(0, 2); }},
      {invalid, "text_input", [](auto* r) { r->mutable_inputs(0)->add_shape(1); }},
      {invalid, "text_input", [](auto* r) { r->mutable_inputs(0)->clear_shape(); }},
      {invalid, "text_input", [](auto* r) { r->set_raw_input_contents(0, "abc"); }},
      {invalid, "text_input",
       [](auto* r) { r->set_raw_input_contents(0, std::string("\xff\xff\xff\xff", 4) + "abc"); }},
      {invalid, "text_input", [](auto* r) { r->set_raw_input_contents(0, Lengthed("abc") + "d"); }},
      {invalid, "text_input", [](auto* r) { r->set_raw_input_contents(0, Lengthed("\xff")); }},
      {invalid, "text_input", [](auto* r) { r->set_raw_input_contents(0, Lengthed("")); }},
      {StatusCode::OUT_OF_RANGE, "text_input",
       [](auto* r) { r->set_raw_input_contents(0, Lengthed(std::string(kTestContext, 'x'))); }},
      {invalid, "text_input",
       [](auto* r) { r->mutable_inputs(0)->mutable_contents()->add_bytes_contents("x"); }},
      {unserved, "text_input",
       [](auto* r) {
         (*r->mutable_inputs(0)->mutable_parameters())["shared_memory_region"].set_string_param(
             "x");
       }},
      {invalid, "text_input",
       [](auto* r) {
         r->mutable_inputs()->DeleteSubrange(0, 1);
         r->mutable_raw_input_contents()->DeleteSubrange(0, 1);
       }},
      {invalid, "return_logprobs",
       [](auto* r) { AddInput("return_logprobs", "BOOL", std::string(1, 2), r); }},
      {invalid, "raw_input_contents", [](auto* r) { r->add_raw_input_contents("surplus"); }},
      {invalid, "text_input", [](auto* r) { r->clear_raw_input_contents(); }},
      {invalid, "outputs[0].name", [](auto* r) { r->add_outputs()->set_name("text"); }},
      {unserved, "text_output",
       [](auto* r) {
         auto* output = r->add_outputs();
         output->set_name("text_output");
         (*output->mutable_parameters())["classification"].set_int64_param(1);
       }},
      {unserved, "parameters",
       [](auto* r) { (*r->mutable_parameters())["temperature"].set_double_param(1); }},
      {StatusCode::NOT_FOUND, "model_name", [](auto* r) { r->set_model_name("other"); }},
      {StatusCode::NOT_FOUND, "model_version", [](auto* r) { r->set_model_version("2"); }},
      {invalid, "id", [](auto* r) { r->set_id("\n"); }},
      {invalid, "sampling_parameters", sampling("[]")},
      {invalid, "sampling_parameters", sampling("{\"top_p\": 1")},
      {invalid, "sampling_parameters.top_p", sampling(R"({"top_p": "much"})")},
      {invalid, "sampling_parameters.top_p", sampling(R"({"top_p": 0})")},
      {invalid, "sampling_parameters.temperature", sampling(R"({"temperature": -1})")},
      {invalid, "sampling_parameters.max_tokens", sampling(R"({"max_tokens": -1})")},
      {invalid, "sampling_parameters.max_tokens", sampling(R"({"max_tokens": 4294967296})")},
      {invalid, "sampling_parameters.n", sampling(R"({"n": 4000000000})")},
      {invalid, "sampling_parameters.ignore_eos", sampling(R"({"ignore_eos": 1})")},
      {invalid, "sampling_parameters.stop[1]", sampling(R"({"stop": ["a", 1]})")},
      {invalid, "sampling_parameters.stop_token_ids[0]", sampling(R"({"stop_token_ids": [999]})")},
      {invalid, "sampling_parameters.logit_bias", sampling(R"({"logit_bias": {"x": 1}})")},
      {invalid, "sampling_parameters.logit_bias[1]", sampling(R"({"logit_bias": {"1": "x"}})")},
      {invalid, "sampling_parameters.logprobs", sampling(R"({"logprobs": 1000})")},
      {unserved, "sampling_parameters.best_of", sampling(R"({"best_of": 2})")},
      {unserved, "sampling_parameters", sampling("{\"\\n\": 2}")},
  };
  for (const Case& c : cases) {
    kserve::ModelInferRequest request = Asking("fine");
    c.spoil(&request);
    kserve::ModelInferResponse response;
    const grpc::Status status = Infer(request, &response);
    EXPECT_EQ(status.error_code(), c.code) << c.field << " " << status.error_message();
    EXPECT_EQ(ViolatedField(status), c.field) << status.error_message();
    EXPECT_THAT(status.error_message(), StartsWith(c.field + ": "));
  }
  EXPECT_THAT(Infer(Asking("fine"))["text_output"], ElementsAre("finefine"));
}

TEST_F(KserveTest, ManyCallsShareAStreamAndEachEndsOnce) {
  grpc::ClientContext context;
  const auto stream = stub_->ModelStreamInfer(&context);
  // More than the stream is let have at a time.
  const int calls = static_cast<int>(kMaxCallsOfStream) + 40;
  std::thread writer([&] {
    for (int i = 0; i < calls; ++i) {
      kserve::ModelInferRequest request = Asking("text of " + std::to_string(i));
      if (i % 2 == 0) AddFlag("stream", true, &request);
      if (i % 7 == 3) request.set_model_name("other");
      request.set_id(std::to_string(i));
      EXPECT_TRUE(stream->Write(request));
    }
    stream->WritesDone();
  });
  std::map<std::string, std::string> texts;
  std::map<std::string, int> ends, pieces;
  for (kserve::ModelStreamInferResponse r; stream->Read(&r);) {
    const kserve::ModelInferResponse& response = r.infer_response();
    EXPECT_EQ(ends[response.id()], 0);
    ++pieces[response.id()];
    if (!r.error_message().empty()) {
      EXPECT_THAT(r.error_message(), StartsWith("NOT_FOUND: model_name: "));
      ++ends[response.id()];
      continue;
    }
    texts[response.id()] += Values(response).at("text_output").front();
    ends[response.id()] += IsFinal(response);
  }
  writer.join();
  EXPECT_TRUE(stream->Finish().ok());
  for (int i = 0; i < calls; ++i) {
    const std::string id = std::to_string(i);
    const std::string said = "text of " + id;
    EXPECT_EQ(ends[id], 1) << id;
    if (i % 7 == 3) continue;
    EXPECT_EQ(texts[id], i % 2 == 0 ? said : said + said);
    if (i % 2 == 1) {
      EXPECT_EQ(pieces[id], 1);
    }
  }
  server_.ExpectIdle();
}

TEST_F(KserveTest, AStreamedCallTellsWhatIsNewAndEndsWithoutText) {
  grpc::ClientContext context;
  const auto stream = stub_->ModelStreamInfer(&context);
  kserve::ModelInferRequest request = Asking("abc");
  AddFlag("stream", true, &request);
  AddFlag("return_finish_reason", true, &request);
  AddFlag("return_num_output_tokens", true, &request);
  ASSERT_TRUE(stream->Write(request));
  std::string text;
  int tokens = 0;
  std::string reason;
  for (kserve::ModelStreamInferResponse r; reason != "stop" && stream->Read(&r);) {
    auto values = Values(r.infer_response());
    text += values["text_output"].front();
    tokens += std::stoi(values["num_output_tokens"].front());
    reason = values["finish_reason"].front();
    EXPECT_EQ(IsFinal(r.infer_response()), reason == "stop");
    if (reason == "stop") {
      EXPECT_EQ(values["text_output"].front(), "");
    }
  }
  EXPECT_EQ(text, "abc");
  EXPECT_EQ(tokens, 4);
  // The stream outlives the call.
  ASSERT_TRUE(stream->Write(Asking("more")));
  kserve::ModelStreamInferResponse more;
  ASSERT_TRUE(stream->Read(&more));
  EXPECT_THAT(Values(more.infer_response())["text_output"], ElementsAre("moremore"));
  stream->WritesDone();
  EXPECT_TRUE(stream->Finish().ok());
}

TEST_F(KserveTest, AStreamThatGoesFreesThePagesOfAllItsCalls) {
  server_.engine().set_step_delay_us(200);
  grpc::ClientContext context;
  const auto stream = stub_->ModelStreamInfer(&context);
  for (int i = 0; i < 5; ++i) {
    kserve::ModelInferRequest request =
        Asking("endless", R"({"ignore_eos": true, "max_tokens": 400})");
    AddFlag("stream", true, &request);
    ASSERT_TRUE(stream->Write(request));
  }
  kserve::ModelStreamInferResponse response;
  ASSERT_TRUE(stream->Read(&response));
  context.TryCancel();
  EXPECT_EQ(stream->Finish().error_code(), StatusCode::CANCELLED);
  server_.ExpectIdle();
}

TEST_F(KserveTest, ADrainLetsCallsOfAStreamEndAndRefusesNewOnes) {
  server_.engine().PauseAfter(1);
  grpc::ClientContext context;
  const auto stream = stub_->ModelStreamInfer(&context);
  kserve::ModelInferRequest request = Asking("held");
  AddFlag("stream", true, &request);
  ASSERT_TRUE(stream->Write(request));
  kserve::ModelStreamInferResponse response;
  ASSERT_TRUE(stream->Read(&response));
  std::thread drain([&] { server_.stack().Drain(60'000'000); });
  grpc::ClientContext ready_context;
  kserve::ServerReadyResponse ready;
  do {
    grpc::ClientContext ready_context;
    ASSERT_TRUE(stub_->ServerReady(&ready_context, {}, &ready).ok());
  } while (ready.ready());
  ASSERT_TRUE(stream->Write(Asking("late")));
  ASSERT_TRUE(stream->Read(&response));
  EXPECT_EQ(response.infer_response().id(), "r-late");
  EXPECT_THAT(response.error_message(), StartsWith("UNAVAILABLE: "));
  server_.engine().Resume();
  std::string rest;
  while (stream->Read(&response)) rest += Values(response.infer_response())["text_output"].front();
  EXPECT_EQ(rest, "eld");
  drain.join();
}

TEST_F(KserveTest, DescribesServerAndModel) {
  grpc::ClientContext contexts[6];
  kserve::ServerLiveResponse live;
  EXPECT_TRUE(stub_->ServerLive(&contexts[0], {}, &live).ok());
  EXPECT_TRUE(live.live());
  kserve::ServerMetadataResponse server;
  EXPECT_TRUE(stub_->ServerMetadata(&contexts[1], {}, &server).ok());
  EXPECT_EQ(server.name(), "skim");
  kserve::ModelMetadataRequest request;
  request.set_name("echo");
  kserve::ModelMetadataResponse model;
  ASSERT_TRUE(stub_->ModelMetadata(&contexts[2], request, &model).ok());
  EXPECT_EQ(model.inputs_size(), 9);
  EXPECT_EQ(model.outputs_size(), 6);
  EXPECT_EQ(model.inputs(0).name(), "text_input");
  EXPECT_THAT(model.outputs(0).shape(), ElementsAre(-1));
  request.set_version("2");
  EXPECT_EQ(ViolatedField(stub_->ModelMetadata(&contexts[3], request, &model)), "version");
  kserve::ModelConfigRequest about;
  about.set_name("echo");
  kserve::ModelConfigResponse as_triton;
  ASSERT_TRUE(stub_->ModelConfig(&contexts[4], about, &as_triton).ok());
  const kserve::ModelConfig& config = as_triton.config();
  ASSERT_EQ(config.input_size(), model.inputs_size());
  ASSERT_EQ(config.output_size(), model.outputs_size());
  EXPECT_EQ(config.max_batch_size(), 0);
  EXPECT_TRUE(config.model_transaction_policy().decoupled());
  for (const kserve::ModelInput& input : config.input()) {
    EXPECT_EQ(input.optional(), input.name() != "text_input");
    EXPECT_NE(input.data_type(), kserve::TYPE_INVALID);
  }
  const std::map<std::string, kserve::DataType> types = {
      {"BYTES", kserve::TYPE_STRING}, {"FP32", kserve::TYPE_FP32}, {"UINT32", kserve::TYPE_UINT32}};
  for (int i = 0; i < config.output_size(); ++i) {
    EXPECT_EQ(config.output(i).data_type(), types.at(model.outputs(i).datatype()));
  }
  about.set_name("other");
  EXPECT_EQ(ViolatedField(stub_->ModelConfig(&contexts[5], about, &as_triton)), "name");
  for (const auto& [name, ready] : {std::pair{"echo", true}, std::pair{"other", false}}) {
    grpc::ClientContext context;
    kserve::ModelReadyRequest ask;
    ask.set_name(name);
    kserve::ModelReadyResponse answer;
    EXPECT_TRUE(stub_->ModelReady(&context, ask, &answer).ok());
    EXPECT_EQ(answer.ready(), ready);
  }
}

TEST(Kserve, WantsTheTokensOfTheOtherServiceButNotForHealth) {
  TestServerOptions options;
  options.stack.auth = BearerAuth({"secret"});
  TestServer server(options);
  const auto stub = GRPCInferenceService::NewStub(server.NewChannel());
  for (const bool with_token : {false, true}) {
    const auto prepare = [&](grpc::ClientContext* context) {
      if (with_token) context->AddMetadata("authorization", "Bearer secret");
    };
    const StatusCode expected = with_token ? StatusCode::OK : StatusCode::UNAUTHENTICATED;
    grpc::ClientContext infer, stream_context, metadata;
    prepare(&infer);
    prepare(&stream_context);
    prepare(&metadata);
    kserve::ModelInferResponse response;
    EXPECT_EQ(stub->ModelInfer(&infer, Asking("hi"), &response).error_code(), expected);
    const auto stream = stub->ModelStreamInfer(&stream_context);
    stream->WritesDone();
    EXPECT_EQ(stream->Finish().error_code(), expected);
    kserve::ServerMetadataResponse about;
    EXPECT_EQ(stub->ServerMetadata(&metadata, {}, &about).error_code(), expected);
  }
  grpc::ClientContext context;
  kserve::ServerReadyResponse ready;
  EXPECT_TRUE(stub->ServerReady(&context, {}, &ready).ok());
  EXPECT_TRUE(ready.ready());
}

}  // namespace
}  // namespace skim
