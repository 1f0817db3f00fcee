// Users who decode side by side until they are told to go: what somebody else's prompt is felt by.
#pragma once

#include <condition_variable>
#include <memory>
#include <mutex>
#include <optional>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "loadtest/bench_client.h"

namespace skim {

class DecodingUsers {
 public:
  // Returns once every one of them has had a token. Borrows `client`.
  static absl::StatusOr<std::unique_ptr<DecodingUsers>> Start(BenchClient* client, int64_t users,
                                                              v1::WeightFormat weights);
  ~DecodingUsers();  // tells them to go

  // Returns after so long, and not before every one of them has had a few tokens more.
  void Watch(Micros at_least);

  // Tells them to go and returns what they got. INTERNAL if one of them had ended before.
  absl::StatusOr<std::vector<StreamRecord>> Stop();

 private:
  explicit DecodingUsers(int64_t users) : users_(users) {}
  bool OnMessage(size_t tokens);  // gRPC thread
  void End();

  const int64_t users_;
  std::mutex mutex_;
  std::condition_variable changed_;
  int64_t decoding_ = 0;  // guarded by mutex_, as the next three
  int64_t messages_ = 0;
  bool going_ = false;
  std::optional<absl::StatusOr<std::vector<StreamRecord>>> records_;
  std::thread thread_;  // waits for the streams
};

}  // namespace skim
