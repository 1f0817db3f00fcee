#include "server/kserve_stream.h"

#include <utility>
#include <vector>

#include "server/kserve_output.h"
#include "server/load_report.h"
#include "server/rpc_status.h"

namespace skim {
namespace {

kserve::ModelStreamInferResponse ErrorMessage(const std::string& id, const absl::Status& status) {
  kserve::ModelStreamInferResponse message;
  message.set_error_message(absl::StatusCodeToString(status.code()) + ": " +
                            std::string(status.message()));
  message.mutable_infer_response()->set_id(id);
  return message;
}

}  // namespace

class KserveStream::Call final : public GenerateSink {
 public:
  Call(KserveStream* stream, const ServedModel& model, KserveCall call)
      : stream_(stream),
        output_(std::move(call)),
        generate_(std::make_shared<GenerateCall>(&output_.request(), model, stream->services_,
                                                 stream->origin_, this)) {}

  const std::shared_ptr<GenerateCall>& generate() const { return generate_; }

  void Send(v1::GenerateResponse response, bool last) override {
    Outgoing out{.message = {}, .call = this, .last = last};
    kserve::ModelInferResponse* answer = out.message.mutable_infer_response();
    if (!output_.Translate(std::move(response), answer)) {
      generate_->OnSent(true);
      return;
    }
    (*answer->mutable_parameters())["triton_final_response"].set_bool_param(last);
    stream_->Enqueue(std::move(out));
  }

  void Finish(const absl::Status& status) override {
    stream_->Enqueue(
        {.message = ErrorMessage(output_.request().request_id(), output_.TranslateError(status)),
         .call = this,
         .last = true});
  }

 private:
  KserveStream* const stream_;
  KserveOutput output_;
  const std::shared_ptr<GenerateCall> generate_;
};

KserveStream::KserveStream(grpc::CallbackServerContext* context, const CallServices& services,
                           const ServingGate* gate)
    : context_(context),
      services_(services),
      gate_(gate),
      origin_(OriginOf(*context, services.clock->Now())) {
  StartRead(&request_);
}

KserveStream::~KserveStream() = default;

void KserveStream::Begin(const kserve::ModelInferRequest& request) {
  const auto model = gate_->Enter();
  auto translated = FromKserve(request, /*streamable=*/true);
  const absl::Status status = model.ok() ? translated.status() : model.status();
  if (!status.ok()) {
    services_.metrics->OnRefused(status.code());
    Enqueue({.message = ErrorMessage(request.id(), status)});
    return;
  }
  auto call = std::make_unique<Call>(this, *model, *std::move(translated));
  const std::shared_ptr<GenerateCall> generate = call->generate();
  bool cancelled = false;
  {
    std::lock_guard lock(mutex_);
    cancelled = cancelled_;
    calls_.emplace(call.get(), std::move(call));
  }
  // From here on the call may end, and with it what `calls_` owns.
  generate->Start();
  if (cancelled) generate->OnClientGone();
}

void KserveStream::OnReadDone(bool ok) {
  if (ok) Begin(request_);
  Todo todo;
  {
    std::lock_guard lock(mutex_);
    reading_ = ok && !cancelled_ ? Reading::kPaused : Reading::kEnded;
    todo = Next();
  }
  Do(todo);
}

void KserveStream::Enqueue(Outgoing outgoing) {
  Todo todo;
  {
    std::lock_guard lock(mutex_);
    outbox_.push_back(std::move(outgoing));
    todo = Next();
  }
  Do(todo);
}

void KserveStream::OnWriteDone(bool ok) {
  Outgoing written;
  {
    std::lock_guard lock(mutex_);
    written = std::move(outbox_.front());
    outbox_.pop_front();
  }
  std::unique_ptr<Call> ended;
  if (written.call != nullptr && !written.last) {
    written.call->generate()->OnSent(ok);
  } else if (written.call != nullptr) {
    written.call->generate()->Done();
  }
  Todo todo;
  {
    std::lock_guard lock(mutex_);
    writing_ = false;
    if (written.last) {
      const auto found = calls_.find(written.call);
      if (found != calls_.end()) {
        ended = std::move(found->second);
        calls_.erase(found);
      }
    }
    todo = Next();
  }
  Do(todo);
}

void KserveStream::OnCancel() {
  std::vector<std::shared_ptr<GenerateCall>> calls;
  Todo todo;
  {
    std::lock_guard lock(mutex_);
    cancelled_ = true;
    if (reading_ == Reading::kPaused) reading_ = Reading::kEnded;
    for (const auto& [key, call] : calls_) calls.push_back(call->generate());
    todo = Next();
  }
  for (const auto& call : calls) call->OnClientGone();
  Do(todo);
}

KserveStream::Todo KserveStream::Next() {
  Todo todo;
  if (!writing_ && !outbox_.empty()) {
    writing_ = true;
    todo.write = &outbox_.front().message;
  }
  // What was refused takes a place, too, until the client has read of it.
  if (reading_ == Reading::kPaused && calls_.size() + outbox_.size() < kMaxCallsOfStream) {
    reading_ = Reading::kPending;
    todo.read = true;
  }
  if (reading_ == Reading::kEnded && !writing_ && calls_.empty() && !finished_) {
    finished_ = true;
    todo.finish = true;
  }
  return todo;
}

void KserveStream::Do(const Todo& todo) {
  if (todo.write != nullptr) StartWrite(todo.write);
  if (todo.read) StartRead(&request_);
  if (todo.finish) {
    AddLoadTrailer(*services_.load, context_);
    Finish(grpc::Status::OK);
  }
}

}  // namespace skim
