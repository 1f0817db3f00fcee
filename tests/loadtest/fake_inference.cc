#include "tests/loadtest/fake_inference.h"

#include <utility>

#include "absl/strings/str_cat.h"

namespace skim {

FakeInference::FakeInference(Script script) : script_(std::move(script)) {
  int port = 0;
  grpc::ServerBuilder builder;
  builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &port);
  builder.RegisterService(this);
  server_ = builder.BuildAndStart();
  address_ = "127.0.0.1:" + std::to_string(port);
}

FakeInference::~FakeInference() { server_->Shutdown(std::chrono::system_clock::now()); }

v1::GenerateResponse FakeInference::Token(uint32_t id) {
  v1::GenerateResponse response;
  response.mutable_delta()->add_token_ids(id);
  response.mutable_delta()->set_text(absl::StrCat("t", id, " "));
  return response;
}

v1::GenerateResponse FakeInference::Final(const v1::GenerateRequest& request) {
  v1::GenerateResponse response;
  v1::Final* final = response.mutable_final();
  final->set_finish_reason(v1::FINISH_REASON_LENGTH);
  final->mutable_usage()->set_prompt_tokens(static_cast<uint32_t>(request.token_ids().ids_size()));
  final->mutable_usage()->set_generated_tokens(request.sampling().max_tokens());
  final->mutable_timings()->set_queue_ms(1.5);
  final->set_seed(request.sampling().seed());
  final->set_weights(request.has_weights() ? request.weights() : v1::WEIGHT_FORMAT_BF16);
  return response;
}

grpc::Status FakeInference::Honest(const v1::GenerateRequest& request, grpc::ServerContext* context,
                                   Writer* writer) {
  for (uint32_t i = 0; i < request.sampling().max_tokens(); ++i) {
    if (!writer->Write(Token(i)) || context->IsCancelled()) return grpc::Status::CANCELLED;
  }
  writer->Write(Final(request));
  return grpc::Status::OK;
}

grpc::Status FakeInference::Generate(grpc::ServerContext* context,
                                     const v1::GenerateRequest* request, Writer* writer) {
  ++calls_;
  const int running = ++running_;
  int most = most_at_once_;
  while (most < running && !most_at_once_.compare_exchange_weak(most, running)) {
  }
  const grpc::Status status = script_(*request, context, writer);
  --running_;
  return status;
}

grpc::Status FakeInference::GetModel(grpc::ServerContext*, const v1::GetModelRequest*,
                                     v1::GetModelResponse* response) {
  response->set_name("fake");
  response->set_vocabulary(kVocabulary);
  response->set_max_context(kMaxContext);
  response->add_weight_formats(v1::WEIGHT_FORMAT_BF16);
  response->add_weight_format_bytes(1 << 20);
  response->add_weight_formats(v1::WEIGHT_FORMAT_INT4);
  response->add_weight_format_bytes(5 << 16);
  response->set_common_weight_bytes(2 << 20);
  response->add_prefill_boundaries(18);
  response->add_prefill_boundaries(23);
  response->set_prefill_min_prompt_tokens(1000);
  response->add_prefill_profiles("fast");
  v1::PrefillProfile* fast = response->add_prefill_profile_settings();
  fast->set_name("fast");
  fast->add_keep_ratio(0.3f);
  fast->add_keep_ratio(0.125f);
  fast->set_decode_mode(v1::PrefillPolicy::DECODE_MODE_LAZY);
  fast->set_revival_budget(8);
  return grpc::Status::OK;
}

// One token a character; its id is the character's.
grpc::Status FakeInference::Tokenize(grpc::ServerContext*, const v1::TokenizeRequest* request,
                                     v1::TokenizeResponse* response) {
  const std::string& text =
      request->has_chat() ? request->chat().messages(0).content() : request->text();
  for (const char c : text) {
    response->add_ids(static_cast<unsigned char>(c));
    response->add_texts(std::string(1, c));
  }
  return grpc::Status::OK;
}

}  // namespace skim
