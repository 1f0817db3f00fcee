// Token pruning inside a step (LazyLLM, Fu et al. 2024): which keys are scored while the rows
// run, and at a boundary who is chosen and who is revived. Keeps no state between steps.
#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/segments.h"
#include "engine/step_layout.h"
#include "engine/step_plan.h"
#include "kernels/ops.h"

namespace skim {

struct ScoreHead {
  int32_t layer = 0;  // in the segment below the boundary; of scouts, from the boundary on
  int32_t head = 0;   // query head
};

// Per boundary: the heads whose attention scores, each divided by its maximum and added up.
// None: the mean over all heads of the last layer below the boundary (equation 1).
using ScoreHeads = std::vector<std::vector<ScoreHead>>;

// Who scores for the cuts at a boundary, if anybody runs ahead of it. What a head puts on a token
// in the last row and in the mean over the window's rows, each divided by its maximum, is added up.
struct Scouts {
  int32_t window = 0;
  std::vector<ScoreHead> heads;  // none: no scouts

  bool any() const { return !heads.empty(); }
  int32_t end_layer() const {  // they run so far; 0 if there are none
    int32_t end = 0;
    for (const ScoreHead& head : heads) end = std::max(end, head.layer + 1);
    return end;
  }
};

// Keys to be scored after the attention of a layer; there may be several of a layer.
struct ScoreRequest {
  int32_t layer = 0;
  std::vector<int32_t> heads;           // as in KeyScoresArgs
  std::vector<KeyScoreTarget> targets;  // sequence: index into the layer's span
};

class TokenPruner {
 public:
  // Borrows everything. `heads` and `scouts` are empty or have an entry per boundary.
  TokenPruner(const LayerSegments& segments, const ScoreHeads& heads,
              const std::vector<Scouts>& scouts, int32_t max_context, Ops* ops);
  absl::Status Allocate();

  // Before the parts of a step: makes room for the scores of all cuts of `plan`.
  absl::Status Begin(const StepPlan& plan);
  // What to score while `layout` runs, by layer. Valid until the next call.
  absl::StatusOr<std::span<const ScoreRequest>> Requests(const StepPlan& plan,
                                                         const StepLayout& layout);
  // After the layers of `layout`, whose index lies at `index`: fills in who is chosen at its
  // end, gives reserved rows to the revived and, for strict sequences, says who is visible.
  // `revived` is `plan` itself, to be changed so, or null if no rows are reserved.
  absl::Status Choose(const StepLayout& layout, const int32_t* index, const StepPlan& plan,
                      StepPlan* revived, std::vector<Visibility>* visible, StepResult* result);

 private:
  // What of each layer counts for a boundary's cuts. Arrays are numbered as the heads are listed,
  // so that their sum does not depend on how the stack is cut into parts.
  struct Scorer {
    struct Layer {
      int32_t layer;
      std::vector<int32_t> heads;  // none: the mean over all
      int32_t first_array;         // of so many as there are heads, or one; twice that for scouts
    };
    std::vector<Layer> layers;
    int32_t arrays = 0;
    bool normalize = false;
  };
  struct Scored {      // a cut of the step
    int32_t sequence;  // index into the plan
    int32_t cut;       // index into its cuts
    const Scorer* scorer;
    int64_t most_slots;
    size_t scores;                  // offset into scores_
    int64_t slots = 0;              // 0: nothing has been scored so far
    const int32_t* slot_positions = nullptr;  // device, null: in order
  };
  static Scorer ScorerOf(const std::vector<ScoreHead>& heads, int32_t windows);
  int32_t BoundaryIndex(int32_t layer) const;
  // Where the sequence stands in the span of `layout` that runs this layer; that span.
  struct InSpan {
    const LayerSpan* span = nullptr;  // null: it does not run there
    int32_t index = 0;

    const SequenceRows& rows() const { return span->sequences[index]; }
  };
  static InSpan Find(const StepLayout& layout, int32_t layer, int32_t sequence);
  absl::Status ChooseOne(const Scored& scored, const StepPlan& plan, StepPlan* revived,
                         std::vector<Visibility>* visible, CutResult* result);
  // [length] whether a token has run up to `layer`, where phantoms fill the other slots; else
  // empty.
  std::vector<uint8_t> RealTokens(const StepPlan& plan, const PlanSequence& sequence, int32_t layer,
                                  int32_t length) const;
  // Waits for the device: who is chosen decides what runs next.
  absl::StatusOr<std::vector<int32_t>> Top(const PruneRules* rules,
                                           const std::vector<uint8_t>* allowed, int32_t length,
                                           int32_t count);
  void Revive(const PlanCut& cut, const std::vector<int32_t>& positions,
              const PlanSequence& sequence, StepPlan* plan) const;

  const LayerSegments& segments_;
  // Per boundary: by rows below, by scouts, and by a new token's row for who is revived late.
  std::vector<Scorer> scorers_, scouts_, late_;
  const int32_t max_context_;
  Ops& ops_;
  std::unique_ptr<Buffer> scores_, pooled_, allowed_, top_;
  std::vector<ScoreRequest> requests_;
  std::vector<Scored> scored_;
};

}  // namespace skim
