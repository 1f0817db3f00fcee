// Draws that the host has not waited for. Where draft passes are put off (StepPlan::put_off), their
// tokens stay in device memory, where rows of later plans find them by number (PendingToken); the
// wait of the first plan that is not put off settles them. So a round of speculation waits once,
// not for each of its passes.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "base/types.h"
#include "kernels/ops.h"

namespace skim {

class PendingDraws {
 public:
  // Borrows `ops`. At most `most` at one time.
  static absl::StatusOr<std::unique_ptr<PendingDraws>> Create(int32_t most, Ops* ops);

  int32_t size() const { return size_; }
  int32_t room() const { return static_cast<int32_t>(results_.size()) - size_; }

  struct Places {
    int32_t first = 0;                // number of the first
    std::span<SampledToken> results;  // where they are told, valid until Settle
    TokenId* drawn = nullptr;         // device memory
  };
  // For the next `draws`, [0, room()].
  Places Add(int32_t draws);
  // Device memory, by number.
  const TokenId* tokens() const { return tokens_->As<TokenId>(); }

  // Behind a wait: all of them, by number. None is pending any more.
  std::vector<SampledToken> Settle();

 private:
  PendingDraws(int32_t most, std::unique_ptr<Buffer> tokens)
      : results_(static_cast<size_t>(most)), tokens_(std::move(tokens)) {}

  std::vector<SampledToken> results_;
  const std::unique_ptr<Buffer> tokens_;
  int32_t size_ = 0;
};

}  // namespace skim
