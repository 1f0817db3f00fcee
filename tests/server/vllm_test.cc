// vllm.grpc.engine.VllmEngine over a real socket: the same requests as skim.v1, in the words
// that gateways use.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <openssl/sha.h>

#include <chrono>
#include <functional>
#include <thread>

#include "grpc/health/v1/health.grpc.pb.h"
#include "server/vllm_request.h"
#include "tests/server/test_server.h"

namespace skim {
namespace {

using grpc::StatusCode;
using testing::ElementsAre;
using testing::HasSubstr;

constexpr char kName[] = "vllm.grpc.engine.VllmEngine";

vllm::GenerateRequest Tokenized(const std::string& text, bool stream = true) {
  vllm::GenerateRequest request;
  request.set_request_id("r-" + text);
  for (const char c : text) {
    request.mutable_tokenized()->add_input_ids(static_cast<unsigned char>(c));
  }
  request.set_stream(stream);
  return request;
}

struct Answer {
  grpc::Status status;
  std::map<uint32_t, std::vector<vllm::GenerateStreamChunk>> chunks;
  std::map<uint32_t, std::vector<vllm::GenerateComplete>> completes;
  bool late = false;  // something came behind a `complete` of its choice

  std::vector<uint32_t> StreamedIds(uint32_t index = 0) const {
    std::vector<uint32_t> ids;
    if (!chunks.contains(index)) return ids;
    for (const auto& chunk : chunks.at(index)) {
      ids.insert(ids.end(), chunk.token_ids().begin(), chunk.token_ids().end());
    }
    return ids;
  }
  std::vector<uint32_t> AllIds(uint32_t index = 0) const {
    const auto& ids = completes.at(index).front().output_ids();
    return {ids.begin(), ids.end()};
  }
  const vllm::GenerateComplete& only() const { return completes.at(0).at(0); }
};

class VllmTest : public testing::Test {
 protected:
  Answer Generate(const vllm::GenerateRequest& request) {
    Answer answer;
    grpc::ClientContext context;
    const auto reader = server_.worker_stub().Generate(&context, request);
    for (vllm::GenerateResponse response; reader->Read(&response);) {
      if (response.has_chunk()) {
        answer.late |= answer.completes.contains(response.chunk().index());
        answer.chunks[response.chunk().index()].push_back(response.chunk());
      } else {
        answer.completes[response.complete().index()].push_back(response.complete());
      }
    }
    answer.status = reader->Finish();
    return answer;
  }

  TestServer server_;
};

TEST_F(VllmTest, StreamsEveryTokenOnceThenOneCompleteWithAll) {
  const Answer answer = Generate(Tokenized("hello"));
  ASSERT_TRUE(answer.status.ok()) << answer.status.error_message();
  EXPECT_EQ(Text(answer.StreamedIds()), "hello");
  EXPECT_EQ(answer.StreamedIds(), answer.AllIds());
  EXPECT_EQ(answer.completes.at(0).size(), 1u);
  EXPECT_FALSE(answer.late);
  EXPECT_EQ(answer.only().finish_reason(), "stop");
  EXPECT_EQ(answer.only().matched_token_id(), static_cast<uint32_t>(kEndToken));
  EXPECT_EQ(answer.only().prompt_tokens(), 5u);
  EXPECT_EQ(answer.only().completion_tokens(), 6u);
  uint32_t counted = 0;
  for (const auto& chunk : answer.chunks.at(0)) {
    EXPECT_EQ(chunk.prompt_tokens(), 5u);
    counted += chunk.completion_tokens();
  }
  EXPECT_EQ(counted, 6u);
}

TEST_F(VllmTest, WithoutStreamingSendsNothingButOneCompleteAChoice) {
  vllm::GenerateRequest request = Tokenized("hi", /*stream=*/false);
  request.mutable_sampling_params()->set_n(3);
  const Answer answer = Generate(request);
  ASSERT_TRUE(answer.status.ok()) << answer.status.error_message();
  EXPECT_TRUE(answer.chunks.empty());
  ASSERT_EQ(answer.completes.size(), 3u);
  for (uint32_t i = 0; i < 3; ++i) EXPECT_EQ(Text(answer.AllIds(i)), "hi");
}

TEST_F(VllmTest, TakesATextAsARenderedPrompt) {
  vllm::GenerateRequest request;
  request.set_text("a<|start|>b");
  request.set_stream(true);
  request.mutable_sampling_params()->set_ignore_eos(true);
  request.mutable_sampling_params()->set_max_tokens(3);
  const Answer answer = Generate(request);
  ASSERT_TRUE(answer.status.ok()) << answer.status.error_message();
  EXPECT_THAT(answer.StreamedIds(), ElementsAre('a', kStartToken, 'b'));
  EXPECT_EQ(answer.only().finish_reason(), "length");
  EXPECT_EQ(answer.only().prompt_tokens(), 3u);
}

TEST_F(VllmTest, EndsAtStopStringsAndStopTokens) {
  vllm::GenerateRequest request = Tokenized("abcdef");
  request.mutable_sampling_params()->add_stop("cd");
  Answer answer = Generate(request);
  ASSERT_TRUE(answer.status.ok()) << answer.status.error_message();
  EXPECT_EQ(answer.only().finish_reason(), "stop");
  EXPECT_EQ(answer.only().matched_stop_str(), "cd");
  EXPECT_EQ(Text(answer.AllIds()), "abcd");

  request.mutable_sampling_params()->clear_stop();
  request.mutable_sampling_params()->add_stop_token_ids('b');
  answer = Generate(request);
  EXPECT_EQ(Text(answer.AllIds()), "ab");
  EXPECT_EQ(answer.only().matched_token_id(), static_cast<uint32_t>('b'));
}

TEST_F(VllmTest, GivesTheLogprobsThatWereAskedForInChunksOrAtTheEnd) {
  vllm::GenerateRequest request = Tokenized("ab");
  request.mutable_sampling_params()->set_logprobs(1);
  request.mutable_sampling_params()->set_prompt_logprobs(3);
  for (const bool stream : {true, false}) {
    request.set_stream(stream);
    const Answer answer = Generate(request);
    ASSERT_TRUE(answer.status.ok()) << answer.status.error_message();
    vllm::OutputLogProbs output;
    vllm::InputLogProbs input;
    if (stream) {
      for (const auto& chunk : answer.chunks.at(0)) {
        output.MergeFrom(chunk.output_logprobs());
        input.MergeFrom(chunk.input_logprobs());
      }
      EXPECT_TRUE(answer.chunks.at(0).front().has_input_logprobs());
      EXPECT_FALSE(answer.only().has_output_logprobs());
    } else {
      output = answer.only().output_logprobs();
      input = answer.only().input_logprobs();
    }
    EXPECT_THAT(output.token_ids(), ElementsAre('a', 'b', kEndToken));
    ASSERT_EQ(output.token_logprobs_size(), 3);
    EXPECT_EQ(output.token_logprobs(0), EchoEngine::Logprob('a'));
    ASSERT_EQ(output.top_logprobs_size(), 3);
    EXPECT_THAT(output.top_logprobs(0).token_ids(), ElementsAre(0));
    EXPECT_THAT(input.token_ids(), ElementsAre('a', 'b'));
    ASSERT_EQ(input.token_logprobs_size(), 2);
    EXPECT_FALSE(input.token_logprobs(0).has_value());
    EXPECT_EQ(input.token_logprobs(1).value(), EchoEngine::Logprob('b'));
    EXPECT_THAT(input.top_logprobs(1).token_ids(), ElementsAre(0, 1, 2));
  }
}

TEST_F(VllmTest, ZerosMeanNotSet) {
  vllm::GenerateRequest request = Tokenized("zero");
  const auto translated = FromVllm(request, "echo");
  ASSERT_TRUE(translated.ok());
  const v1::Sampling& sampling = translated->sampling();
  EXPECT_EQ(sampling.temperature(), 1);
  EXPECT_EQ(sampling.top_p(), 1);
  EXPECT_EQ(sampling.repetition_penalty(), 1);
  EXPECT_EQ(sampling.n(), 1u);
  EXPECT_TRUE(sampling.has_top_k());  // off, not what generation_config.json says
  EXPECT_EQ(sampling.top_k(), 0u);
  EXPECT_FALSE(sampling.has_max_tokens());
  EXPECT_FALSE(sampling.has_seed());

  request.mutable_sampling_params()->set_temperature(0);
  request.mutable_sampling_params()->set_seed(-1);
  const auto greedy = FromVllm(request, "echo");
  ASSERT_TRUE(greedy.ok());
  EXPECT_EQ(greedy->sampling().temperature(), 0);
  EXPECT_EQ(greedy->sampling().seed(), UINT64_MAX);
}

TEST_F(VllmTest, RefusesWhatItDoesNotServeNamingTheField) {
  struct Case {
    const char* field;
    StatusCode code;
    std::function<void(vllm::GenerateRequest*)> spoil;
  };
  const auto sampling = [](void (*spoil)(vllm::SamplingParams*)) {
    return [spoil](vllm::GenerateRequest* r) { spoil(r->mutable_sampling_params()); };
  };
  const Case cases[] = {
      {"kv_transfer_params", StatusCode::UNIMPLEMENTED,
       [](auto* r) { r->mutable_kv_transfer_params(); }},
      {"kv_transfer_params_json", StatusCode::UNIMPLEMENTED,
       [](auto* r) { r->set_kv_transfer_params_json("{}"); }},
      {"mm_inputs", StatusCode::UNIMPLEMENTED, [](auto* r) { r->mutable_mm_inputs(); }},
      {"extra_mm_inputs", StatusCode::UNIMPLEMENTED, [](auto* r) { r->add_extra_mm_inputs(); }},
      {"media_refs", StatusCode::UNIMPLEMENTED, [](auto* r) { r->mutable_media_refs(); }},
      {"data_parallel_rank", StatusCode::INVALID_ARGUMENT,
       [](auto* r) { r->set_data_parallel_rank(1); }},
      {"sampling_params.json_schema", StatusCode::UNIMPLEMENTED,
       sampling([](auto* s) { s->set_json_schema("{}"); })},
      {"sampling_params.regex", StatusCode::UNIMPLEMENTED,
       sampling([](auto* s) { s->set_regex("a*"); })},
      {"sampling_params.choice", StatusCode::UNIMPLEMENTED,
       sampling([](auto* s) { s->mutable_choice(); })},
      {"sampling_params.grammar_from_first_token", StatusCode::UNIMPLEMENTED,
       sampling([](auto* s) { s->set_grammar_from_first_token(true); })},
      {"sampling_params.truncate_prompt_tokens", StatusCode::UNIMPLEMENTED,
       sampling([](auto* s) { s->set_truncate_prompt_tokens(4); })},
      {"sampling_params.logprobs", StatusCode::INVALID_ARGUMENT,
       sampling([](auto* s) { s->set_logprobs(-1); })},
      {"sampling_params.prompt_logprobs", StatusCode::INVALID_ARGUMENT,
       sampling([](auto* s) { s->set_prompt_logprobs(-1); })},
      {"sampling_params.logprobs", StatusCode::INVALID_ARGUMENT,
       sampling([](auto* s) { s->set_logprobs(100); })},
      {"sampling_params.logit_bias[-1]", StatusCode::INVALID_ARGUMENT,
       sampling([](auto* s) { (*s->mutable_logit_bias())[-1] = 1; })},
      {"sampling_params.top_p", StatusCode::INVALID_ARGUMENT,
       sampling([](auto* s) { s->set_top_p(1.5f); })},
      {"sampling_params.stop_token_ids[0]", StatusCode::INVALID_ARGUMENT,
       sampling([](auto* s) { s->add_stop_token_ids(1 << 30); })},
      {"tokenized.input_ids[1]", StatusCode::INVALID_ARGUMENT,
       [](auto* r) { r->mutable_tokenized()->set_input_ids(1, 1 << 30); }},
      {"tokenized.input_ids", StatusCode::INVALID_ARGUMENT,
       [](auto* r) { r->mutable_tokenized()->clear_input_ids(); }},
      {"tokenized.input_ids", StatusCode::OUT_OF_RANGE,
       [](auto* r) {
         for (int i = 0; i < kTestContext; ++i) r->mutable_tokenized()->add_input_ids('x');
       }},
      {"input", StatusCode::INVALID_ARGUMENT, [](auto* r) { r->clear_input(); }},
  };
  for (const Case& c : cases) {
    vllm::GenerateRequest request = Tokenized("fine");
    c.spoil(&request);
    const Answer answer = Generate(request);
    EXPECT_EQ(answer.status.error_code(), c.code) << c.field;
    EXPECT_EQ(ViolatedField(answer.status), c.field) << answer.status.error_message();
    EXPECT_THAT(answer.status.error_message(), testing::StartsWith(std::string(c.field) + ": "));
    EXPECT_TRUE(answer.completes.empty());
  }
}

TEST_F(VllmTest, AbortEndsTheCallWithThatIdAndNoOther) {
  server_.engine().set_step_delay_us(200);
  vllm::GenerateRequest request = Tokenized("a long story");
  request.mutable_sampling_params()->set_ignore_eos(true);
  request.mutable_sampling_params()->set_max_tokens(400);
  grpc::ClientContext context;
  grpc::ClientContext other_context;
  const auto reader = server_.worker_stub().Generate(&context, request);
  // A client of the other protocol chose the same id.
  v1::GenerateRequest other = EndlessRequest("mine", 60);
  other.set_request_id(request.request_id());
  const auto other_reader = server_.stub().Generate(&other_context, other);
  vllm::GenerateResponse response;
  ASSERT_TRUE(reader->Read(&response));

  vllm::AbortRequest abort;
  abort.add_request_ids("nobody's");
  abort.add_request_ids(request.request_id());
  for (int i = 0; i < 2; ++i) {
    grpc::ClientContext abort_context;
    vllm::AbortResponse done;
    EXPECT_TRUE(server_.worker_stub().Abort(&abort_context, abort, &done).ok());
  }
  while (reader->Read(&response)) {
  }
  EXPECT_TRUE(reader->Finish().ok());
  ASSERT_TRUE(response.has_complete());
  EXPECT_EQ(response.complete().finish_reason(), "abort");
  EXPECT_LT(response.complete().completion_tokens(), 400u);
  Outcome outcome;
  for (v1::GenerateResponse r; other_reader->Read(&r);) outcome.Add(r);
  EXPECT_TRUE(other_reader->Finish().ok());
  EXPECT_EQ(outcome.only().token_ids.size(), 60u);
  server_.ExpectIdle();
}

TEST_F(VllmTest, AClientThatGoesFreesItsPages) {
  vllm::GenerateRequest request = Tokenized("endless");
  request.mutable_sampling_params()->set_ignore_eos(true);
  server_.engine().set_step_delay_us(200);
  grpc::ClientContext context;
  const auto reader = server_.worker_stub().Generate(&context, request);
  vllm::GenerateResponse response;
  ASSERT_TRUE(reader->Read(&response));
  context.TryCancel();
  EXPECT_EQ(reader->Finish().error_code(), StatusCode::CANCELLED);
  server_.ExpectIdle();
}

TEST(Vllm, IsHealthyOnlyWhileItServes) {
  TestServerOptions options;
  options.serve = false;
  TestServer server(options);
  const auto healthy = [&](const std::string& why) {
    grpc::ClientContext context;
    vllm::HealthCheckResponse response;
    EXPECT_TRUE(server.worker_stub().HealthCheck(&context, {}, &response).ok());
    EXPECT_THAT(response.message(), HasSubstr(why));
    const auto health = grpc::health::v1::Health::NewStub(server.NewWorkerChannel());
    for (const std::string name : {"", kName, "vllm.grpc.engine.VllmEngine/HealthCheck"}) {
      grpc::ClientContext health_context;
      grpc::health::v1::HealthCheckRequest request;
      grpc::health::v1::HealthCheckResponse status;
      request.set_service(name);
      EXPECT_TRUE(health->Check(&health_context, request, &status).ok()) << name;
      EXPECT_EQ(status.status() == grpc::health::v1::HealthCheckResponse::SERVING,
                response.healthy());
    }
    return response.healthy();
  };
  EXPECT_FALSE(healthy("loaded"));
  grpc::ClientContext context;
  vllm::GetModelInfoResponse info;
  EXPECT_EQ(server.worker_stub().GetModelInfo(&context, {}, &info).error_code(),
            StatusCode::UNAVAILABLE);
  server.Serve();
  EXPECT_TRUE(healthy(""));

  // A stream keeps the drain open.
  server.engine().PauseAfter(1);
  grpc::ClientContext stream_context;
  const auto reader = server.worker_stub().Generate(&stream_context, Tokenized("held"));
  vllm::GenerateResponse response;
  ASSERT_TRUE(reader->Read(&response));
  std::thread drain([&] { server.stack().Drain(60'000'000); });
  // The answers change one after the other: only then are they compared.
  const auto health = grpc::health::v1::Health::NewStub(server.NewWorkerChannel());
  const auto anything_serves = [&] {
    grpc::ClientContext worker_context, health_context;
    vllm::HealthCheckResponse worker;
    grpc::health::v1::HealthCheckResponse status;
    EXPECT_TRUE(server.worker_stub().HealthCheck(&worker_context, {}, &worker).ok());
    EXPECT_TRUE(health->Check(&health_context, {}, &status).ok());
    return worker.healthy() || status.status() == grpc::health::v1::HealthCheckResponse::SERVING;
  };
  while (anything_serves()) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  EXPECT_FALSE(healthy("shutting down"));
  server.engine().Resume();
  while (reader->Read(&response)) {
  }
  EXPECT_TRUE(reader->Finish().ok());
  drain.join();
}

TEST_F(VllmTest, DescribesModelServerAndLoad) {
  grpc::ClientContext model_context;
  vllm::GetModelInfoResponse model;
  ASSERT_TRUE(server_.worker_stub().GetModelInfo(&model_context, {}, &model).ok());
  EXPECT_EQ(model.served_model_name(), "echo");
  EXPECT_TRUE(model.is_generation());
  EXPECT_EQ(model.max_context_length(), static_cast<uint32_t>(kTestContext));
  EXPECT_EQ(model.vocab_size(), static_cast<uint32_t>(kTestVocabulary));
  EXPECT_THAT(model.eos_token_ids(), ElementsAre(kEndToken));
  EXPECT_EQ(model.default_sampling_params_json(), "{}");

  // Two run and hold pages; the engine stands still.
  server_.engine().PauseAfter(2);
  std::vector<std::unique_ptr<grpc::ClientContext>> contexts;
  std::vector<std::unique_ptr<grpc::ClientReader<vllm::GenerateResponse>>> readers;
  for (int i = 0; i < 2; ++i) {
    contexts.push_back(std::make_unique<grpc::ClientContext>());
    readers.push_back(server_.worker_stub().Generate(contexts.back().get(), Tokenized("load")));
  }
  vllm::SchedulerLoad load;
  const auto give_up = std::chrono::steady_clock::now() + std::chrono::seconds(20);
  while (load.num_total_reqs() < 1 && std::chrono::steady_clock::now() < give_up) {
    grpc::ClientContext context;
    vllm::GetLoadsResponse response;
    ASSERT_TRUE(server_.worker_stub().GetLoads(&context, {}, &response).ok());
    ASSERT_EQ(response.loads_size(), 1);
    EXPECT_EQ(response.dp_rank_count(), 1);
    EXPECT_EQ(response.timestamp().size(), std::string("2000-01-01T00:00:00Z").size());
    load = response.loads(0);
  }
  EXPECT_GE(load.num_total_reqs(), 1);
  EXPECT_EQ(load.max_running_requests(), 16);
  EXPECT_EQ(load.max_total_num_tokens(), 256 * 16);
  EXPECT_NEAR(load.token_usage(), load.num_used_tokens() / (256.0 * 16), 1e-9);

  grpc::ClientContext info_context;
  vllm::GetServerInfoResponse info;
  ASSERT_TRUE(server_.worker_stub().GetServerInfo(&info_context, {}, &info).ok());
  EXPECT_GE(info.active_requests(), 1u);
  EXPECT_FALSE(info.is_paused());
  EXPECT_GT(info.last_receive_timestamp(), 1.6e9);
  EXPECT_EQ(info.block_size(), 16);
  EXPECT_EQ(info.max_num_seqs(), 16);
  server_.engine().Resume();
  for (auto& reader : readers) {
    for (vllm::GenerateResponse response; reader->Read(&response);) {
    }
    EXPECT_TRUE(reader->Finish().ok());
  }

  grpc::ClientContext rank_context;
  vllm::GetLoadsRequest rank;
  rank.set_dp_rank(1);
  vllm::GetLoadsResponse none;
  EXPECT_EQ(ViolatedField(server_.worker_stub().GetLoads(&rank_context, rank, &none)), "dp_rank");
}

std::string Sha256(const std::string& data) {
  unsigned char digest[SHA256_DIGEST_LENGTH];
  SHA256(reinterpret_cast<const unsigned char*>(data.data()), data.size(), digest);
  std::string hex;
  char two[3];
  for (const unsigned char byte : digest) {
    std::snprintf(two, sizeof(two), "%02x", byte);
    hex += two;
  }
  return hex;
}

TEST(Vllm, SendsTheTokenizerAsAnArchiveWithItsHash) {
  TestServerOptions options;
  options.model_directory = SKIM_SOURCE_DIR "/tests/golden/tiny-llama-bias";
  TestServer server(options);
  grpc::ClientContext context;
  const auto reader = server.worker_stub().GetTokenizer(&context, {});
  std::string zip;
  std::string hash;
  for (smg::grpc::common::GetTokenizerChunk chunk; reader->Read(&chunk);) {
    EXPECT_EQ(hash, "");  // on the last only
    zip += chunk.data();
    hash = chunk.sha256();
  }
  EXPECT_TRUE(reader->Finish().ok());
  EXPECT_EQ(hash, Sha256(zip));
  EXPECT_THAT(zip, testing::StartsWith("PK\x03\x04"));
  EXPECT_THAT(zip, HasSubstr("tokenizer.json"));
  EXPECT_THAT(zip, HasSubstr("tokenizer_config.json"));
  EXPECT_THAT(zip, testing::Not(HasSubstr("safetensors")));
}

TEST_F(VllmTest, SaysSoWhereThereAreNoFilesAndWhatItDoesNotHave) {
  grpc::ClientContext context;
  const auto reader = server_.worker_stub().GetTokenizer(&context, {});
  smg::grpc::common::GetTokenizerChunk chunk;
  EXPECT_FALSE(reader->Read(&chunk));
  EXPECT_EQ(reader->Finish().error_code(), StatusCode::NOT_FOUND);
  grpc::ClientContext embed_context;
  vllm::EmbedResponse embedding;
  EXPECT_EQ(server_.worker_stub().Embed(&embed_context, {}, &embedding).error_code(),
            StatusCode::UNIMPLEMENTED);
}

TEST(Vllm, NeedsNoTokenWhereTheOtherPortDoesAndServesNothingElse) {
  TestServerOptions options;
  options.stack.auth = BearerAuth({"secret"});
  TestServer server(options);
  EXPECT_EQ(server.Generate(TextRequest("hi")).status.error_code(), StatusCode::UNAUTHENTICATED);
  grpc::ClientContext context;
  const auto reader = server.worker_stub().Generate(&context, Tokenized("hi"));
  for (vllm::GenerateResponse response; reader->Read(&response);) {
  }
  EXPECT_TRUE(reader->Finish().ok());
  const auto stub = v1::Inference::NewStub(server.NewWorkerChannel());
  grpc::ClientContext other_context;
  v1::GetModelResponse model;
  EXPECT_EQ(stub->GetModel(&other_context, {}, &model).error_code(), StatusCode::UNIMPLEMENTED);
}

}  // namespace
}  // namespace skim
