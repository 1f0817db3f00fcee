// vllm.grpc.engine.VllmEngine, for gateways: a port of its own, without tokens, as gateways
// send none. Generate runs the same path as skim.v1.Inference.
#pragma once

#include <atomic>
#include <string>

#include "server/generate_call.h"
#include "server/kv_journal.h"
#include "server/serving_gate.h"
#include "server/vllm_request.h"
#include "vllm/grpc/engine/vllm_engine.grpc.pb.h"

namespace skim {

class VllmService final : public vllm::VllmEngine::CallbackService {
 public:
  // Borrows `gate` and `journal`. Every call gets the savings (savings.h).
  VllmService(const CallServices& services, const ServingGate* gate, std::string savings,
              KvJournal* journal);

 private:
  using Context = grpc::CallbackServerContext;
  template <typename Message>
  using Stream = grpc::ServerWriteReactor<Message>;
  using Unary = grpc::ServerUnaryReactor;

  Stream<vllm::GenerateResponse>* Generate(Context* context,
                                           const vllm::GenerateRequest* request) override;
  Unary* HealthCheck(Context* context, const vllm::HealthCheckRequest* request,
                     vllm::HealthCheckResponse* response) override;
  Unary* Abort(Context* context, const vllm::AbortRequest* request,
               vllm::AbortResponse* response) override;
  Unary* GetModelInfo(Context* context, const vllm::GetModelInfoRequest* request,
                      vllm::GetModelInfoResponse* response) override;
  Unary* GetServerInfo(Context* context, const vllm::GetServerInfoRequest* request,
                       vllm::GetServerInfoResponse* response) override;
  Unary* GetLoads(Context* context, const vllm::GetLoadsRequest* request,
                  vllm::GetLoadsResponse* response) override;
  Stream<smg::grpc::common::GetTokenizerChunk>* GetTokenizer(
      Context* context, const smg::grpc::common::GetTokenizerRequest* request) override;

  Stream<smg::grpc::common::KvEventBatch>* SubscribeKvEvents(
      Context* context, const smg::grpc::common::SubscribeKvEventsRequest* request) override;

  const CallServices services_;
  const ServingGate* const gate_;
  const std::string savings_;
  KvJournal* const journal_;
  const Micros started_;
  std::atomic<double> last_receive_{0};  // seconds since 1970
};

}  // namespace skim
