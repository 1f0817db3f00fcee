// An Inference service on a real socket whose every stream is scripted by the test. By default
// it does what the protocol promises.
#pragma once

#include <grpcpp/grpcpp.h>

#include <atomic>
#include <functional>
#include <memory>
#include <string>

#include "skim/v1/inference.grpc.pb.h"

namespace skim {

class FakeInference final : public v1::Inference::Service {
 public:
  using Writer = grpc::ServerWriter<v1::GenerateResponse>;
  using Script =
      std::function<grpc::Status(const v1::GenerateRequest&, grpc::ServerContext*, Writer*)>;

  static constexpr uint32_t kVocabulary = 1000;
  static constexpr uint32_t kMaxContext = 4096;

  explicit FakeInference(Script script = Honest);
  ~FakeInference() override;

  // HOST:PORT.
  const std::string& address() const { return address_; }
  int most_at_once() const { return most_at_once_; }
  int calls() const { return calls_; }

  // max_tokens tokens, one a message, then the final message.
  static grpc::Status Honest(const v1::GenerateRequest& request, grpc::ServerContext* context,
                             Writer* writer);

  // Pieces for scripts.
  static v1::GenerateResponse Token(uint32_t id);
  static v1::GenerateResponse Final(const v1::GenerateRequest& request);

 private:
  grpc::Status Generate(grpc::ServerContext* context, const v1::GenerateRequest* request,
                        Writer* writer) override;
  grpc::Status GetModel(grpc::ServerContext* context, const v1::GetModelRequest* request,
                        v1::GetModelResponse* response) override;
  grpc::Status Tokenize(grpc::ServerContext* context, const v1::TokenizeRequest* request,
                        v1::TokenizeResponse* response) override;

  const Script script_;
  std::string address_;
  std::atomic<int> running_ = 0;
  std::atomic<int> most_at_once_ = 0;
  std::atomic<int> calls_ = 0;
  std::unique_ptr<grpc::Server> server_;
};

}  // namespace skim
