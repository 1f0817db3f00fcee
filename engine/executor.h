// Runs StepPlans on loaded models: owns the KV pool, and has each model run its rows of a step.
#pragma once

#include <memory>
#include <utility>

#include "absl/status/statusor.h"
#include "engine/model_runner.h"
#include "engine/step_executor.h"

namespace skim {

// Bytes of one KV page for this model and these options.
size_t KvPageBytes(const ModelConfig& config, const ExecutorOptions& options);

// A model that drafts. Borrowed.
struct DraftModel {
  const ModelConfig& config;
  const Weights& weights;  // in one format
};

// How its K/V lie in the pages of a model with these options, and what its rows cost.
// INVALID_ARGUMENT if one of its layers is larger than a page, or its vocabulary another.
absl::StatusOr<DraftModelGeometry> DraftGeometry(const ModelConfig& config,
                                                 const ExecutorOptions& options,
                                                 const ModelConfig& draft, WeightFormat format);

class Executor final : public StepExecutor {
 public:
  // Borrows config, weights, predictors, ops and what `draft` borrows, if there is one.
  static absl::StatusOr<std::unique_ptr<Executor>> Create(const ModelConfig& config,
                                                          const Weights& weights,
                                                          const Predictors& predictors, Ops* ops,
                                                          const ExecutorOptions& options,
                                                          const DraftModel* draft = nullptr);

  void BindThread() override { ops_.BindThread(); }
  absl::Status Execute(const StepPlan& plan, StepResult* result) override;
  const KvGeometry& kv_geometry() const override { return geometry_; }

  // Sees the logits of every row of the served model that has any.
  void SetLogitsProbe(ModelRunner::LogitsProbe probe) { served_->SetLogitsProbe(std::move(probe)); }

 private:
  Executor(const ModelConfig& config, const Predictors& predictors, Ops* ops,
           const ExecutorOptions& options);
  // Of a plan with rows of the draft model.
  absl::Status RunParts(const StepPlan& plan, StepResult* result);
  absl::Status AddDraftModel(const ModelConfig& config, const DraftModel& draft, KvPool pool);

  Ops& ops_;
  const ExecutorOptions options_;
  KvGeometry geometry_;
  const Predictors no_predictors_;  // of the draft model
  std::unique_ptr<Buffer> kv_pool_;
  std::unique_ptr<PendingDraws> pending_;
  std::unique_ptr<ModelRunner> served_;
  std::unique_ptr<ModelRunner> draft_;  // null: there is none
};

}  // namespace skim
