// Sends a daemon that serves nobody else the requests that a benchmark times. Every prompt is
// new (random token ids), so the prefix cache never helps; end tokens are ignored and decoding
// is greedy, so every run generates the same number of tokens.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "base/clock.h"
#include "cli/connection.h"
#include "loadtest/stream_record.h"

namespace skim {

struct BenchWork {
  int64_t streams = 1;  // sent at once
  int64_t prompt_tokens = 0;
  int64_t output_tokens = 1;
  v1::WeightFormat weights = v1::WEIGHT_FORMAT_BF16;
  std::string prefill = {};  // profile; empty: exact
  // As PlannedRequest::stays; streams that it ends are no failures.
  std::function<bool(size_t tokens)> stays = {};
};

class BenchClient {
 public:
  // Borrows `connection`.
  BenchClient(const Connection* connection, v1::GetModelResponse model);

  const v1::GetModelResponse& model() const { return model_; }

  // Returns when all streams have ended. INTERNAL if one was not what it should be, or was
  // answered from the cache, or was not pruned as asked: then its times mean nothing. Any
  // thread; several sets may run side by side.
  absl::StatusOr<std::vector<StreamRecord>> Run(const BenchWork& work);
  // The same of these requests, all sent at once; records come in the order in which they end.
  absl::StatusOr<std::vector<StreamRecord>> Run(const std::vector<v1::GenerateRequest>& requests);

 private:
  absl::StatusOr<std::vector<StreamRecord>> Send(int64_t streams,
                                                 const std::function<PlannedRequest()>& next);

  const Connection* const connection_;
  const v1::GetModelResponse model_;
  const SteadyClock clock_;
  std::atomic<uint64_t> seed_ = 1;  // another one for every set of prompts
};

// Of a stream that has had a token.
double FirstTokenSeconds(const StreamRecord& record);

}  // namespace skim
