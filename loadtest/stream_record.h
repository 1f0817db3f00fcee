// What happened to one request of a load test, as seen from outside.
#pragma once

#include <grpcpp/grpcpp.h>

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/types.h"
#include "loadtest/planned_request.h"
#include "loadtest/stream_audit.h"

namespace skim {

struct StreamRecord {
  Behaviour behaviour = Behaviour::kNormal;
  grpc::StatusCode code = grpc::StatusCode::OK;
  std::string message;  // of the status
  bool cancelled_by_us = false;

  // Times on the client's clock. `planned` is when the request was due: latencies count from
  // there, so that a late sender cannot hide a slow server.
  Micros planned = 0;
  Micros started = 0;
  Micros ended = 0;
  std::vector<Micros> token_times;  // arrival of each token of all choices, in order

  std::vector<uint32_t> token_ids;  // of choice 0
  std::optional<v1::Final> final;   // of choice 0
  std::vector<Fault> faults;

  bool Finished() const { return code == grpc::StatusCode::OK && final.has_value(); }
};

}  // namespace skim
