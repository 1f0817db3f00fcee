// Time as an argument. Only the serving loop and the RPC layer hold a Clock; the
// scheduling policy receives `now` and is therefore reproducible.
#pragma once

#include <chrono>

#include "base/types.h"

namespace skim {

class Clock {
 public:
  virtual ~Clock() = default;
  // Monotonic; thread-safe.
  virtual Micros Now() const = 0;
};

class SteadyClock final : public Clock {
 public:
  Micros Now() const override {
    return std::chrono::duration_cast<std::chrono::microseconds>(
               std::chrono::steady_clock::now().time_since_epoch())
        .count();
  }
};

}  // namespace skim
