// Token pruning inside a step (LazyLLM, Fu et al. 2024): which keys are scored while the rows
// run, and at a boundary who is chosen and who is revived. Keeps no state between steps.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/model_config.h"
#include "engine/segments.h"
#include "engine/step_layout.h"
#include "engine/step_plan.h"
#include "kernels/ops.h"

namespace skim {

struct ScoreHead {
  int32_t layer = 0;  // in the segment below the boundary
  int32_t head = 0;   // query head
};

// Per boundary: the heads whose attention scores, each divided by its maximum and added up.
// None: the mean over all heads of the last layer below the boundary (equation 1).
using ScoreHeads = std::vector<std::vector<ScoreHead>>;

// Keys to be scored after the attention of a layer.
struct ScoreRequest {
  int32_t layer = 0;
  std::vector<int32_t> heads;           // as in KeyScoresArgs
  std::vector<KeyScoreTarget> targets;  // sequence: index into the layer's span
};

class TokenPruner {
 public:
  // Borrows everything. `heads` is empty or has an entry per boundary.
  TokenPruner(const ModelConfig& config, const LayerSegments& segments, const ScoreHeads& heads,
              int32_t max_context, Ops* ops);
  absl::Status Allocate();

  // What to score while `layout` runs for the cuts at its end. Valid until the next call.
  absl::StatusOr<std::span<const ScoreRequest>> Requests(const StepPlan& plan,
                                                         const StepLayout& layout);
  // After the layers of `layout`, whose index lies at `index`: fills in who is chosen at its
  // end, gives reserved rows to the revived and, for strict sequences, says who is visible.
  // `revived` is `plan` itself, to be changed so, or null if no rows are reserved.
  absl::Status Choose(const StepLayout& layout, const int32_t* index, const StepPlan& plan,
                      StepPlan* revived, std::vector<Visibility>* visible, StepResult* result);

 private:
  struct Scored {  // a cut at the end of the layout
    int32_t sequence;  // index into the plan
    int32_t cut;       // index into its cuts
    int32_t arrays;
    int64_t slots;
    const int32_t* slot_positions;  // device, null: in order
    size_t scores;                  // offset into scores_
  };
  int32_t BoundaryIndex(int32_t layer) const;
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

  const ModelConfig& config_;
  const LayerSegments& segments_;
  const ScoreHeads heads_;
  const int32_t max_context_;
  Ops& ops_;
  std::unique_ptr<Buffer> scores_, pooled_, allowed_, top_;
  std::vector<ScoreRequest> requests_;
  std::vector<Scored> scored_;
};

}  // namespace skim
