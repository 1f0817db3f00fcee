// Sends the requests of a workload, either at the times of a Poisson process whatever the
// server does (open loop: what real users do), or with a fixed number in flight (closed loop).
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <mutex>
#include <vector>

#include "base/clock.h"
#include "cli/connection.h"
#include "loadtest/stream_record.h"

namespace skim {

struct LoadOptions {
  double rate_per_s = 0;    // > 0: open loop with this many requests a second on average
  int64_t concurrency = 1;  // closed loop: streams in flight
  int64_t requests = 0;     // stop after this many; 0 = no limit
  double duration_s = 0;    // stop starting after this time; 0 = no limit
  uint64_t seed = 1;        // of the arrival times
};

struct LoadProgress {
  int64_t started = 0;
  int64_t ended = 0;
  int64_t failed = 0;  // ended with a fault or an error nobody asked for
  double share = 0;    // of the whole run, [0, 1]
};

class LoadRunner {
 public:
  // `slow` carries the slow readers: its flow-control window is small, so that not reading is
  // felt by the server and not hidden by buffers. All borrowed for the runner's life.
  LoadRunner(const Connection* connection, const Connection* slow, const Clock* clock);

  // Returns when every started stream has ended: one record each. `next` makes the requests.
  // `stop` ends it early (no new streams); `progress` is called a few times a second. Both
  // callbacks run on the calling thread.
  std::vector<StreamRecord> Run(const LoadOptions& options,
                                const std::function<PlannedRequest()>& next,
                                const std::atomic<bool>& stop,
                                const std::function<void(const LoadProgress&)>& progress);

 private:
  void Start(PlannedRequest planned, Micros due);
  LoadProgress Progress(const LoadOptions& options, Micros begin) const;

  const Connection* const connection_;
  const Connection* const slow_;
  const Clock* const clock_;

  mutable std::mutex mutex_;
  std::condition_variable changed_;
  int64_t started_ = 0;  // guarded by mutex_, as the next two
  int64_t failed_ = 0;
  std::vector<StreamRecord> records_;
};

// The channel settings for LoadRunner's `slow` connection.
grpc::ChannelArguments SlowReaderChannel();

// True if the run counts this stream as failed.
bool IsFailure(const StreamRecord& record);

}  // namespace skim
