// Runs the rows of StepPlans that are of one model: lays the step out, walks the layers, runs the
// head on the rows whose logits are wanted, samples. Keeps no state of sequences: what it needs of
// them comes with the plan, and what they leave behind are bytes in the KV pool, which several
// models may share, and hidden rows for the draft head.
#pragma once

#include <deque>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/draft_head.h"
#include "engine/model_config.h"
#include "engine/pending_draws.h"
#include "engine/predictors.h"
#include "engine/sample_rows.h"
#include "engine/segments.h"
#include "engine/step_layout.h"
#include "engine/token_pruner.h"
#include "engine/transformer.h"
#include "engine/weights.h"
#include "kernels/ops.h"

namespace skim {

struct ExecutorOptions {
  int32_t max_rows = 512;
  int32_t max_context = 0;  // tokens; positions are below it
  int32_t page_tokens = 32;
  int32_t kv_pages = 0;
  KvFormat kv_format = KvFormat::kBf16;
  std::vector<int32_t> boundaries;  // segment cuts, ascending in (0, layers)
  ScoreHeads score_heads;           // empty, or per boundary
  std::vector<Scouts> scouts;       // the same
  int32_t feature_places = 64;      // if the model has a draft head
  int32_t pending_draws = 0;        // at one time; 0: no plan is put off
};

// options.kv_pages pages of one size in the backend's memory.
struct KvPool {
  std::byte* data = nullptr;
  size_t page_bytes = 0;
};

class ModelRunner {
 public:
  // Borrows config, weights, predictors, ops, the pool's memory and `pending`, which must outlive
  // it. A page has room for `segments.unit_layers()` layers; its draft head is left out if there
  // are no options.feature_places.
  static absl::StatusOr<std::unique_ptr<ModelRunner>> Create(
      const ModelConfig& config, const Weights& weights, const Predictors& predictors, Ops* ops,
      const ExecutorOptions& options, const LayerSegments& segments, const KvPool& pool,
      PendingDraws* pending);

  // All rows of `plan`, which are this model's. INTERNAL if the plan contradicts itself. Of
  // `result`, whose `pending` says whether it is put off, fills the sequences.
  absl::Status Run(const StepPlan& plan, StepResult* result);

  const LayerSegments& segments() const { return segments_; }
  const HiddenGeometry& hidden() const { return hidden_; }
  bool has_draft_head() const { return draft_head_ != nullptr; }

  // Sees the logits of every row that has any, before sampling, in host memory: [rows,
  // vocab] and for each row its sequence and position. Of plans that are waited for. For tests and
  // evaluation.
  using LogitsProbe = std::function<void(SeqId, int32_t position, std::span<const float>)>;
  void SetLogitsProbe(LogitsProbe probe) { probe_ = std::move(probe); }

 private:
  struct Wanted {  // a row whose logits are wanted
    int32_t row;
    int32_t sequence;  // index into the plan
    bool draw;         // else: score the token that follows
  };

  ModelRunner(const ModelConfig& config, const Weights& weights, const Predictors& predictors,
              Ops* ops, const ExecutorOptions& options, const LayerSegments& segments,
              const KvPool& pool, PendingDraws* pending);
  absl::Status Allocate();
  absl::Status CheckRows(const StepPlan& plan) const;
  LayoutContext Context() const;
  std::vector<Wanted> WantedRows(const StepPlan& plan) const;
  // `index`: the rows of `wanted`, uploaded.
  absl::Status RunHead(const StepPlan& plan, std::span<const Wanted> wanted, const int32_t* index,
                       StepResult* result);
  // What sample_rows_ ask for, which are those of `wanted`.
  void Sample(Matrix<const float> logits, const ColumnTokens& columns,
              std::span<const Wanted> wanted, StepResult* result);
  // What has been sampled, once it has been waited for.
  void Tell(StepResult* result);
  // Rows `x`, those of `wanted`, of which drafts that left at an exit with an adapter go through
  // it.
  void AdaptExits(const StepPlan& plan, std::span<const Wanted> wanted, Matrix<float> x);
  // Of the sequences that have a place for them, the rows that are drawn from.
  void KeepFeatures(const StepPlan& plan);
  void RunDraftHead(const StepPlan& plan, StepResult* result);
  // A copy of host memory that is there until the device is done with the step.
  std::span<const int32_t> Uploaded(std::span<const int32_t> list);
  absl::Status Probe(const StepPlan& plan, std::span<const Wanted> wanted);
  // Layers [first_layer, end_layer) of all rows, and the cuts at end_layer. Who is revived there
  // gets rows in `revived`, which is `plan` itself or, if it reserves no rows, null. With the last
  // part the rows that are `wanted` are uploaded, too.
  absl::Status RunPart(int32_t first_layer, int32_t end_layer, const StepPlan& plan,
                       std::span<const Wanted> wanted, StepPlan* revived, StepResult* result);

  const ModelConfig& config_;
  const Weights& weights_;
  const Predictors& predictors_;
  Ops& ops_;
  const ExecutorOptions options_;
  const LayerSegments segments_;
  const KvPool pool_;
  const HiddenGeometry hidden_;
  PendingDraws& pending_;

  std::unique_ptr<Buffer> index_;
  size_t head_rows_ = 0;  // of index_, where those whose logits are wanted begin
  std::unique_ptr<Buffer> head_hidden_, head_normed_, logits_;
  std::unique_ptr<Transformer> transformer_;
  std::unique_ptr<TokenPruner> pruner_;
  std::unique_ptr<DraftHead> draft_head_;  // null: there is none
  std::vector<Visibility> visible_;        // of the step at hand, per sequence
  // Of what has not been waited for, its parts and other lists that are uploaded.
  std::deque<StepLayout> layouts_;
  std::deque<std::vector<int32_t>> uploads_;
  struct Sampled {
    std::vector<Wanted> wanted;
    std::vector<SampledToken> tokens;  // parallel
  };
  std::deque<Sampled> sampled_;  // of the step at hand
  SampleRows sample_rows_;
  LogitsProbe probe_;
};

}  // namespace skim
