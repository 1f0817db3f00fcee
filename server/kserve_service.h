// inference.GRPCInferenceService, for clients of the Open Inference Protocol: beside
// skim.v1.Inference on the port for clients, with the same tokens. Both infer methods run the
// same path as skim.v1.Inference.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "inference/grpc_service.grpc.pb.h"
#include "server/bearer_auth.h"
#include "server/generate_call.h"
#include "server/kserve_tensors.h"
#include "server/serving_gate.h"

namespace skim {

class KserveService final : public kserve::GRPCInferenceService::CallbackService {
 public:
  // Borrows `gate`.
  KserveService(const CallServices& services, const ServingGate* gate, BearerAuth auth);

 private:
  using Context = grpc::CallbackServerContext;
  using Unary = grpc::ServerUnaryReactor;

  // Health needs no token.
  Unary* ServerLive(Context* context, const kserve::ServerLiveRequest* request,
                    kserve::ServerLiveResponse* response) override;
  Unary* ServerReady(Context* context, const kserve::ServerReadyRequest* request,
                     kserve::ServerReadyResponse* response) override;
  Unary* ModelReady(Context* context, const kserve::ModelReadyRequest* request,
                    kserve::ModelReadyResponse* response) override;
  Unary* ServerMetadata(Context* context, const kserve::ServerMetadataRequest* request,
                        kserve::ServerMetadataResponse* response) override;
  Unary* ModelMetadata(Context* context, const kserve::ModelMetadataRequest* request,
                       kserve::ModelMetadataResponse* response) override;
  Unary* ModelConfig(Context* context, const kserve::ModelConfigRequest* request,
                     kserve::ModelConfigResponse* response) override;
  Unary* ModelInfer(Context* context, const kserve::ModelInferRequest* request,
                    kserve::ModelInferResponse* response) override;
  grpc::ServerBidiReactor<kserve::ModelInferRequest, kserve::ModelStreamInferResponse>*
  ModelStreamInfer(Context* context) override;

  bool Ready() const;
  // The model to serve this call with, or why not.
  absl::StatusOr<ServedModel> Admit(const Context& context) const;

  const CallServices services_;
  const ServingGate* const gate_;
  const BearerAuth auth_;
};

}  // namespace skim
