// One Generate call on gRPC's callback threads: hundreds need no thread of their own.
#pragma once

#include <grpcpp/alarm.h>
#include <grpcpp/grpcpp.h>

#include <atomic>
#include <functional>

#include "base/clock.h"
#include "cli/connection.h"
#include "loadtest/stream_audit.h"
#include "loadtest/stream_record.h"

namespace skim {

class LoadStream final : public grpc::ClientReadReactor<v1::GenerateResponse> {
 public:
  // Runs once, on a gRPC thread, when the stream is already gone.
  using Done = std::function<void(StreamRecord)>;

  // Sends the request. The stream owns itself until it calls `done`; `connection` and `clock`
  // must outlive that.
  static void Start(const Connection& connection, const Clock& clock, PlannedRequest planned,
                    Micros due, Done done);

 private:
  LoadStream(const Clock& clock, PlannedRequest planned, Micros due, Done done);

  void OnReadDone(bool ok) override;
  void OnDone(const grpc::Status& status) override;
  void ReadNext();
  void Cancel();

  const Clock& clock_;
  const PlannedRequest planned_;
  grpc::ClientContext context_;
  grpc::Alarm pause_;  // of a slow reader
  grpc::Alarm cancel_due_;
  v1::GenerateResponse response_;
  StreamAudit audit_;
  StreamRecord record_;
  std::atomic<bool> cancelled_ = false;
  Done done_;
};

}  // namespace skim
