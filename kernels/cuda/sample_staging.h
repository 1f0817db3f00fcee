// The rows of a Sample call laid out for one upload and one download.
#pragma once

#include <cstddef>
#include <span>

#include "kernels/cuda/launch.h"
#include "kernels/sampling.h"

namespace skim::cuda {

class SampleStaging {
 public:
  // Borrows `rows`.
  SampleStaging(std::span<const SampleRow> rows, int64_t vocabulary);

  size_t list_bytes() const { return list_bytes_; }
  size_t result_bytes() const;
  int32_t max_top() const { return max_top_; }
  bool adjusts() const { return adjusts_; }  // some row has bias, penalties or bans

  // [tasks][counts][bias][banned], as the device will see it at `device`.
  void Write(std::byte* host, const std::byte* device) const;

  // Parts of the result block, at a host or device address.
  SampleOutcome* Outcomes(std::byte* results) const {
    return reinterpret_cast<SampleOutcome*>(results);
  }
  TokenLogprob* Top(std::byte* results) const {
    return reinterpret_cast<TokenLogprob*>(results + rows_.size() * sizeof(SampleOutcome));
  }

 private:
  std::span<const SampleRow> rows_;
  size_t list_bytes_ = 0;
  int32_t max_top_ = 0;  // a row's most log-probabilities, at most the vocabulary
  bool adjusts_ = false;
};

}  // namespace skim::cuda
