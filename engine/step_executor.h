// The engine as the scheduler sees it. Tests of the scheduler put a fake behind this.
#pragma once

#include "absl/status/status.h"
#include "engine/step_plan.h"

namespace skim {

class StepExecutor {
 public:
  virtual ~StepExecutor() = default;

  // Called once by the thread that will call Execute, which starts no other thread.
  virtual void BindThread() {}

  // Runs every row of `plan` and fills `result` (parallel to plan.sequences). Called from
  // the serving loop's thread only; returns when the step's tokens are known, or, of a plan that
  // may be put off, when its rows are enqueued. An error is a device fault: no sequence of this
  // step may be trusted. Faults of one sequence are reported in its SequenceResult.
  virtual absl::Status Execute(const StepPlan& plan, StepResult* result) = 0;

  virtual const KvGeometry& kv_geometry() const = 0;
};

}  // namespace skim
