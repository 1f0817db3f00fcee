// skim.v1.Inference. Every method first asks who calls and whether there is a model to
// serve; only then does text work start, on the text workers.
#pragma once

#include <functional>

#include "absl/status/statusor.h"
#include "server/bearer_auth.h"
#include "server/generate_call.h"
#include "server/serving_gate.h"
#include "skim/v1/inference.grpc.pb.h"

namespace skim {

class InferenceService final : public v1::Inference::CallbackService {
 public:
  // Borrows `gate`.
  InferenceService(const CallServices& services, const ServingGate* gate, BearerAuth auth);

 private:
  grpc::ServerWriteReactor<v1::GenerateResponse>* Generate(
      grpc::CallbackServerContext* context, const v1::GenerateRequest* request) override;
  grpc::ServerUnaryReactor* Tokenize(grpc::CallbackServerContext* context,
                                     const v1::TokenizeRequest* request,
                                     v1::TokenizeResponse* response) override;
  grpc::ServerUnaryReactor* Detokenize(grpc::CallbackServerContext* context,
                                       const v1::DetokenizeRequest* request,
                                       v1::DetokenizeResponse* response) override;
  grpc::ServerUnaryReactor* GetModel(grpc::CallbackServerContext* context,
                                     const v1::GetModelRequest* request,
                                     v1::GetModelResponse* response) override;

  // The model to serve this call with, or why not.
  absl::StatusOr<ServedModel> Admit(const grpc::CallbackServerContext& context) const;
  // Runs `work` on the text workers, with the model, and finishes the call with its status.
  grpc::ServerUnaryReactor* RunUnary(grpc::CallbackServerContext* context,
                                     std::function<absl::Status(const ServedModel&)> work);

  const CallServices services_;
  const ServingGate* const gate_;
  const BearerAuth auth_;
};

}  // namespace skim
