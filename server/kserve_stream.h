// ModelStreamInfer: any number of calls that share one stream of a client. Each has a GenerateCall
// of its own with at most one message on its way, so the memory of a stream is bounded by the calls
// that it is let have at a time; while it has as many, no request is read.
#pragma once

#include <cstddef>
#include <deque>
#include <map>
#include <memory>
#include <mutex>

#include "grpcpp/support/server_callback.h"
#include "server/generate_call.h"
#include "server/kserve_request.h"
#include "server/serving_gate.h"

namespace skim {

inline constexpr size_t kMaxCallsOfStream = 256;

class KserveStream final
    : public grpc::ServerBidiReactor<kserve::ModelInferRequest, kserve::ModelStreamInferResponse> {
 public:
  // Borrows `gate`. Deletes itself.
  KserveStream(grpc::CallbackServerContext* context, const CallServices& services,
               const ServingGate* gate);
  ~KserveStream() override;

  // --- gRPC's threads ---
  void OnReadDone(bool ok) override;
  void OnWriteDone(bool ok) override;
  void OnCancel() override;
  void OnDone() override { delete this; }

 private:
  class Call;
  struct Outgoing {
    kserve::ModelStreamInferResponse message;
    Call* call = nullptr;  // null: the request never became one
    bool last = true;      // of its call
  };
  enum class Reading { kPending, kPaused, kEnded };
  // What is to be started once the lock is released.
  struct Todo {
    kserve::ModelStreamInferResponse* write = nullptr;
    bool read = false;
    bool finish = false;
  };

  void Begin(const kserve::ModelInferRequest& request);
  void Enqueue(Outgoing outgoing);
  Todo Next();  // with the lock held
  void Do(const Todo& todo);

  grpc::CallbackServerContext* const context_;
  const CallServices services_;
  const ServingGate* const gate_;
  const CallOrigin origin_;
  kserve::ModelInferRequest request_;  // that is being read

  std::mutex mutex_;
  std::map<Call*, std::unique_ptr<Call>> calls_;  // until their last message is written
  std::deque<Outgoing> outbox_;                   // the first is being written, if `writing_`
  Reading reading_ = Reading::kPending;
  bool writing_ = false;
  bool cancelled_ = false;
  bool finished_ = false;
};

}  // namespace skim
