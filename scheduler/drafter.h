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
#include "engine/step_plan.h"
#include "kernels/weight.h"
#include "scheduler/answer_store.h"
#include "scheduler/speculation_policy.h"
#include "scheduler/step_times.h"

namespace skim {

// What the row of a draft pass runs.
struct DraftRow {
  int32_t leave = 0;  // before this layer, to the final norm and the head; 0: to the draft head
  WeightFormat format = WeightFormat::kBf16;
  PlanModel model = PlanModel::kServed;
  std::span<const int16_t> skipped = {};  // layers below `leave` that it does not run, ascending

  bool by_head() const { return leave == 0; }
  bool by_draft_model() const { return model == PlanModel::kDraft; }
  int32_t layers() const { return leave - static_cast<int32_t>(skipped.size()); }
  PassKind kind() const {
    if (by_draft_model()) return kDraftModelPass;
    return by_head() ? kHeadPass : PassOf(format);
  }
};

struct DraftProposal {
  std::vector<TokenId> tokens;  // to be verified as they are; or
  int32_t passes = 0;           // so many draft passes of `row`, a token each
  DraftRow row;
  bool stored = false;  // the tokens are of an earlier answer
  // Of the first pass: the draft model also runs known tokens that it has not run yet.
  int32_t first_rows = 1;

  int32_t size() const { return tokens.empty() ? passes : static_cast<int32_t>(tokens.size()); }
  size_t source() const {
    if (passes == 0) return stored ? kStoreSource : kTextSource;
    if (row.by_draft_model()) return kDraftModelSource;
    return row.by_head() ? kHeadSource : SelfSource(row.format);
  }
};

class Drafter {
 public:
  virtual ~Drafter() = default;
  // At most `most` (> 0) tokens that may follow `tokens`, which is what it was called with
  // before and perhaps more.
  virtual DraftProposal Propose(std::span<const TokenId> tokens, int32_t most) = 0;
};

// What drafters know beside the sequence's own text. Borrowed.
struct DraftContext {
  int32_t layers = 0;              // of the model
  AnswerStore* answers = nullptr;  // null if the policy asks for none
  AnswerOwner owner;               // whose answers a sequence may see
  DraftModelGeometry draft_model;
};

// Those that `policy` asks for or, if kAuto, allows; none if it is off. If not kAuto, each is for
// where those before it propose nothing. They borrow `policy`.
std::vector<std::unique_ptr<Drafter>> MakeDrafters(const SpeculationPolicy& policy,
                                                   const DraftContext& context);

}  // namespace skim
