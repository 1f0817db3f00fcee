#include "loadtest/load_stream.h"

#include <chrono>
#include <memory>
#include <utility>

namespace skim {

void LoadStream::Start(const Connection& connection, const Clock& clock, PlannedRequest planned,
                       Micros due, Done done) {
  auto* stream = new LoadStream(clock, std::move(planned), due, std::move(done));
  connection.Prepare(&stream->context_);
  stream->record_.started = clock.Now();
  connection.stub().async()->Generate(&stream->context_, &stream->planned_.request, stream);
  // A slow reader's pause is no pending operation of gRPC's, so without the hold OnDone could
  // come, and free everything, in the middle of one.
  stream->AddHold();
  stream->StartRead(&stream->response_);
  if (stream->planned_.behaviour == Behaviour::kCancel &&
      stream->planned_.cancel_after_tokens == 0 && !stream->planned_.stays) {
    stream->AddHold();  // for the alarm, likewise
    stream->cancel_due_.Set(
        std::chrono::system_clock::now() + std::chrono::microseconds(stream->planned_.cancel_after),
        [stream](bool) {
          stream->Cancel();
          stream->RemoveHold();
        });
  }
  stream->StartCall();  // from here on the stream may be gone at any time
}

LoadStream::LoadStream(const Clock& clock, PlannedRequest planned, Micros due, Done done)
    : clock_(clock), planned_(std::move(planned)), audit_(planned_), done_(std::move(done)) {
  record_.behaviour = planned_.behaviour;
  record_.planned = due;
}

void LoadStream::Cancel() {
  cancelled_ = true;
  context_.TryCancel();
}

void LoadStream::OnReadDone(bool ok) {
  const Micros now = clock_.Now();
  if (!ok) {
    record_.ended = now;
    RemoveHold();
    return;
  }
  record_.token_times.insert(record_.token_times.end(),
                             static_cast<size_t>(response_.delta().token_ids_size()), now);
  audit_.OnResponse(response_);
  const size_t tokens = record_.token_times.size();
  if (planned_.cancel_after_tokens > 0 && tokens >= planned_.cancel_after_tokens) Cancel();
  if (planned_.stays && !planned_.stays(tokens)) Cancel();
  ReadNext();
}

void LoadStream::ReadNext() {
  if (planned_.read_delay <= 0) {
    StartRead(&response_);
    return;
  }
  pause_.Set(std::chrono::system_clock::now() + std::chrono::microseconds(planned_.read_delay),
             [this](bool) { StartRead(&response_); });
}

void LoadStream::OnDone(const grpc::Status& status) {
  std::unique_ptr<LoadStream> self(this);
  record_.cancelled_by_us = cancelled_;
  record_.code = status.error_code();
  record_.message = status.error_message();
  record_.faults = audit_.Finish(status);
  record_.token_ids = audit_.token_ids();
  record_.final = audit_.final();
  StreamRecord record = std::move(record_);
  const Done done = std::move(done_);
  self.reset();
  done(std::move(record));
}

}  // namespace skim
