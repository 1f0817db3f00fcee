// The bounded way in: hands accepted requests from the RPC threads to the loop, and is the
// only lock between them. Bounds what waits, here and in the scheduler, by requests and by
// prompt tokens.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

#include "absl/status/status.h"
#include "base/types.h"
#include "scheduler/request.h"
#include "scheduler/token_channel.h"

namespace skim {

struct Arrival {
  Request request;
  std::shared_ptr<TokenChannel> channel;
  Micros submitted = 0;
};

class Intake {
 public:
  Intake(int32_t max_requests, int64_t max_tokens)
      : max_requests_(max_requests), max_tokens_(max_tokens) {}

  // Any thread. RESOURCE_EXHAUSTED when full; the reason given to Refuse once refusing. An
  // empty queue takes a prompt of any length: it is bounded by the context elsewhere.
  absl::Status Submit(Arrival arrival);
  // Any thread. From now on Submit returns `reason`; the first reason stays.
  void Refuse(absl::Status reason);
  // Accepted and not yet finished. Any thread.
  int64_t in_flight() const { return in_flight_.load(std::memory_order_acquire); }

  // --- loop thread ---
  std::vector<Arrival> Take();
  // A request no longer waits, because it runs or has ended: its place is free again.
  void Left(int64_t prompt_tokens);
  void Finished() { in_flight_.fetch_sub(1, std::memory_order_acq_rel); }

 private:
  const int32_t max_requests_;
  const int64_t max_tokens_;
  std::atomic<int64_t> in_flight_{0};
  std::mutex mutex_;
  std::vector<Arrival> arrivals_;
  absl::Status refusal_;
  int64_t waiting_requests_ = 0;
  int64_t waiting_tokens_ = 0;
};

}  // namespace skim
