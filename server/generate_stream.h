// GenerateStream: a GenerateCall that answers as a gRPC server stream of some protocol's
// messages. What is particular to the protocol is a Translator.
#pragma once

#include <memory>
#include <utility>

#include "grpcpp/support/server_callback.h"
#include "server/generate_call.h"
#include "server/load_report.h"
#include "server/rpc_status.h"

namespace skim {

// Translator, one a call, used by one thread at a time:
//   const v1::GenerateRequest& request() const     lives as long as the translator
//   bool Translate(v1::GenerateResponse response, Message* out)
//     false: nothing is to be sent for it. Never for the last `final`.
//   absl::Status TranslateError(const absl::Status& status)
template <typename Message, typename Translator>
class GenerateStream final : public grpc::ServerWriteReactor<Message>, public GenerateSink {
 public:
  GenerateStream(grpc::CallbackServerContext* context, const ServedModel& model,
                 const CallServices& services, Translator translator)
      : context_(context),
        load_(services.load),
        translator_(std::move(translator)),
        call_(std::make_shared<GenerateCall>(&translator_.request(), model, services,
                                             OriginOf(*context, services.clock->Now()), this)) {
  }

  // Once, at once.
  void Start() { call_->Start(); }

  void Send(v1::GenerateResponse response, bool last) override {
    if (!translator_.Translate(std::move(response), &message_)) {
      call_->OnSent(true);
    } else if (last) {
      AddLoadTrailer(*load_, context_);
      this->StartWriteAndFinish(&message_, grpc::WriteOptions(), grpc::Status::OK);
    } else {
      this->StartWrite(&message_);
    }
  }

  void Finish(const absl::Status& status) override {
    AddLoadTrailer(*load_, context_);
    grpc::ServerWriteReactor<Message>::Finish(ToGrpcStatus(translator_.TranslateError(status)));
  }

  // --- gRPC's threads ---
  void OnWriteDone(bool ok) override { call_->OnSent(ok); }
  void OnCancel() override { call_->OnClientGone(); }
  void OnDone() override {
    call_->Done();
    delete this;
  }

 private:
  grpc::CallbackServerContext* const context_;
  const LoadMonitor* const load_;
  Translator translator_;
  Message message_;
  const std::shared_ptr<GenerateCall> call_;
};

// A stream that ends before it began.
template <typename Message>
class RefusedStream final : public grpc::ServerWriteReactor<Message> {
 public:
  explicit RefusedStream(const absl::Status& status) { this->Finish(ToGrpcStatus(status)); }
  void OnDone() override { delete this; }
};

}  // namespace skim
