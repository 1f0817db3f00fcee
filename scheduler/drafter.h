// Where drafts come from. One drafter per sequence, behind one interface: it either knows the
// tokens at once, or names rows of the forward function from which they are drawn, one a pass.
// A drafter cannot make the output wrong, only slow. Loop thread only.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "base/types.h"
#include "engine/sampling_params.h"
#include "kernels/weight.h"
#include "scheduler/speculation_policy.h"

namespace skim {

// What the row of a draft pass runs.
struct DraftRow {
  int32_t leave = 0;  // before this layer, to the final norm and the head
  WeightFormat format = WeightFormat::kBf16;
};

struct DraftProposal {
  std::vector<TokenId> tokens;  // to be verified as they are; or
  int32_t passes = 0;           // so many draft passes of `row`, a token each
  DraftRow row;

  int32_t size() const { return tokens.empty() ? passes : static_cast<int32_t>(tokens.size()); }
  size_t source() const { return passes > 0 ? SelfSource(row.format) : 0; }
};

class Drafter {
 public:
  virtual ~Drafter() = default;
  // At most `most` (> 0) tokens that may follow `tokens`, which is what it was called with
  // before and perhaps more.
  virtual DraftProposal Propose(std::span<const TokenId> tokens, int32_t most) = 0;
};

// Those that `policy` asks for or, if kAuto, allows; none if it is off. `layers`: of the model.
std::vector<std::unique_ptr<Drafter>> MakeDrafters(const SpeculationPolicy& policy, int32_t layers);

}  // namespace skim
