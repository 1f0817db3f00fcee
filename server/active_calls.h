// The Generate calls that are under way, so that a shutdown can wait for them and, when its
// time is up, end them. Thread-safe.
#pragma once

#include <condition_variable>
#include <cstddef>
#include <mutex>
#include <string_view>
#include <unordered_set>

#include "absl/status/status.h"
#include "base/types.h"

namespace skim {

class ActiveCall {
 public:
  virtual ~ActiveCall() = default;
  // Ends the call with this status as soon as possible. Any thread; must not block.
  virtual void End(const absl::Status& status) = 0;
  // Ends its sequences, if that is its id and its protocol has this. As End().
  virtual void Abort(std::string_view request_id) = 0;
};

class ActiveCalls {
 public:
  void Add(ActiveCall* call);
  void Remove(ActiveCall* call);
  size_t size() const;

  void EndAll(const absl::Status& status);
  void Abort(std::string_view request_id);
  // False if calls are left after `timeout`.
  bool WaitUntilNone(Micros timeout) const;

 private:
  mutable std::mutex mutex_;
  mutable std::condition_variable none_;
  std::unordered_set<ActiveCall*> calls_;
};

}  // namespace skim
