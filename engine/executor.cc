#include "engine/executor.h"

#include <algorithm>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"

namespace skim {
namespace {

KvLayout LayoutOf(const ModelConfig& config, int32_t layers, const ExecutorOptions& options) {
  return {options.page_tokens, layers, config.kv_heads, config.head_dim, options.kv_format};
}

// Multiplications of a row in one layer's products: all else of a row is small beside them.
int64_t RowWork(const ModelConfig& config) {
  return config.hidden_size *
         (int64_t{config.qkv_width()} + config.q_width() + 3 * int64_t{config.intermediate_size});
}

int32_t PhantomsPerRow(const ModelConfig& config) {
  const int64_t phantom = config.hidden_size * (2 * int64_t{config.kv_width()});
  return static_cast<int32_t>(std::max<int64_t>(1, RowWork(config) / phantom));
}

int32_t LayersPerPage(const ModelConfig& config, const ExecutorOptions& options,
                      const ModelConfig& draft) {
  return static_cast<int32_t>(static_cast<int64_t>(KvPageBytes(config, options)) /
                              LayoutOf(draft, 1, options).PageBytes());
}

// The entries of one model, and where they stand in the plan.
struct Part {
  StepPlan plan;
  std::vector<size_t> entries;
};

Part PartOf(const StepPlan& plan, PlanModel model) {
  Part part;
  for (size_t i = 0; i < plan.sequences.size(); ++i) {
    if (plan.sequences[i].model != model) continue;
    PlanSequence entry = plan.sequences[i];
    const int32_t begin = entry.row_begin;
    entry.row_begin = part.plan.rows();
    for (int32_t row = begin; row < begin + entry.row_count; ++row) {
      part.plan.AddRow(plan.tokens[row], plan.positions[row], plan.enter[row], plan.leave[row]);
    }
    part.plan.sequences.push_back(std::move(entry));
    part.entries.push_back(i);
  }
  return part;
}

// Entries follow one another without gaps, inside the plan's arrays.
bool RowsAreThere(const StepPlan& plan) {
  const auto rows = static_cast<size_t>(plan.rows());
  if (plan.positions.size() != rows || plan.enter.size() != rows || plan.leave.size() != rows) {
    return false;
  }
  int32_t next = 0;
  for (const PlanSequence& sequence : plan.sequences) {
    if (sequence.row_begin != next || sequence.row_count <= 0 ||
        sequence.row_count > plan.rows() - next) {
      return false;
    }
    next += sequence.row_count;
  }
  return next == plan.rows();
}

}  // namespace

size_t KvPageBytes(const ModelConfig& config, const ExecutorOptions& options) {
  const LayerSegments segments(config.layers, options.boundaries);
  return static_cast<size_t>(LayoutOf(config, segments.unit_layers(), options).PageBytes());
}

absl::StatusOr<DraftModelGeometry> DraftGeometry(const ModelConfig& config,
                                                 const ExecutorOptions& options,
                                                 const ModelConfig& draft, WeightFormat format) {
  if (draft.vocab_size != config.vocab_size) {
    return absl::InvalidArgumentError(absl::StrCat("the draft model has ", draft.vocab_size,
                                                   " tokens, the model ", config.vocab_size));
  }
  const int32_t page_layers = LayersPerPage(config, options, draft);
  if (page_layers < 1) {
    return absl::InvalidArgumentError(
        absl::StrCat("a layer of the draft model takes ", LayoutOf(draft, 1, options).PageBytes(),
                     " bytes of keys and values for ", options.page_tokens,
                     " tokens, a page of the model has ", KvPageBytes(config, options)));
  }
  DraftModelGeometry geometry;
  geometry.layers = static_cast<int16_t>(draft.layers);
  geometry.units = LayerSegments::Paged(draft.layers, page_layers).units()[0];
  geometry.context = std::min(options.max_context, draft.max_positions);
  geometry.format = format;
  const int64_t layer = RowWork(config);
  geometry.row_layers = static_cast<int32_t>(
      std::max<int64_t>(1, (draft.layers * RowWork(draft) + layer / 2) / layer));
  return geometry;
}

Executor::Executor(const ModelConfig& config, const Predictors& predictors, Ops* ops,
                   const ExecutorOptions& options)
    : ops_(*ops), options_(options) {
  const LayerSegments segments(config.layers, options.boundaries);
  geometry_.page_tokens = options.page_tokens;
  geometry_.total_pages = options.kv_pages;
  geometry_.segment_units = segments.units();
  geometry_.boundaries.assign(options.boundaries.begin(), options.boundaries.end());
  geometry_.layers = static_cast<int16_t>(config.layers);
  geometry_.max_rows = options.max_rows;
  const std::vector<int32_t> predicted = predictors.boundaries();
  geometry_.phantom_cuts.assign(predicted.begin(), predicted.end());
  geometry_.phantoms_per_row = PhantomsPerRow(config);
  for (const Scouts& scouts : options.scouts) {
    geometry_.scouts.push_back({static_cast<int16_t>(scouts.end_layer()), scouts.window});
  }
}

absl::StatusOr<std::unique_ptr<Executor>> Executor::Create(const ModelConfig& config,
                                                           const Weights& weights,
                                                           const Predictors& predictors, Ops* ops,
                                                           const ExecutorOptions& options,
                                                           const DraftModel* draft) {
  std::unique_ptr<Executor> executor(new Executor(config, predictors, ops, options));
  Executor& e = *executor;
  KvPool pool{nullptr, KvPageBytes(config, options)};
  SKIM_ASSIGN_OR_RETURN(e.kv_pool_, ops->Allocate(pool.page_bytes * options.kv_pages));
  pool.data = e.kv_pool_->data();
  const LayerSegments segments(config.layers, options.boundaries);
  SKIM_ASSIGN_OR_RETURN(e.pending_, PendingDraws::Create(options.pending_draws, ops));
  SKIM_ASSIGN_OR_RETURN(e.served_, ModelRunner::Create(config, weights, predictors, ops, options,
                                                       segments, pool, e.pending_.get()));
  e.geometry_.hidden_rows_per_page = e.served_->hidden().rows_per_page;
  if (e.served_->has_draft_head()) e.geometry_.feature_places = options.feature_places;
  if (draft != nullptr) SKIM_RETURN_IF_ERROR(e.AddDraftModel(config, *draft, pool));
  return executor;
}

absl::Status Executor::AddDraftModel(const ModelConfig& config, const DraftModel& draft,
                                     KvPool pool) {
  SKIM_ASSIGN_OR_RETURN(geometry_.draft_model, DraftGeometry(config, options_, draft.config,
                                                             draft.weights.formats.front()));
  ExecutorOptions options = options_;
  options.boundaries = {};
  options.score_heads = {};
  options.scouts = {};
  options.feature_places = 0;
  options.max_context = geometry_.draft_model.context;
  const auto segments =
      LayerSegments::Paged(draft.config.layers, LayersPerPage(config, options_, draft.config));
  SKIM_ASSIGN_OR_RETURN(
      draft_, ModelRunner::Create(draft.config, draft.weights, no_predictors_, &ops_, options,
                                  segments, pool, pending_.get()));
  return absl::OkStatus();
}

absl::Status Executor::Execute(const StepPlan& plan, StepResult* result) {
  int32_t draws = 0;
  bool of_served_only = true;
  for (const PlanSequence& sequence : plan.sequences) {
    draws += sequence.draws;
    of_served_only &= sequence.model == PlanModel::kServed;
  }
  *result = {};
  result->pending = plan.put_off && draws > 0 && draws <= pending_->room();
  if (of_served_only) {
    SKIM_RETURN_IF_ERROR(served_->Run(plan, result));
  } else {
    SKIM_RETURN_IF_ERROR(RunParts(plan, result));
  }
  if (!result->pending) result->settled = pending_->Settle();
  return absl::OkStatus();
}

absl::Status Executor::RunParts(const StepPlan& plan, StepResult* result) {
  if (!draft_) return absl::InternalError("step plan: there is no draft model");
  if (!RowsAreThere(plan)) return absl::InternalError("step plan: rows are not consecutive");
  result->sequences.resize(plan.sequences.size());
  for (const PlanModel model : {PlanModel::kServed, PlanModel::kDraft}) {
    Part part = PartOf(plan, model);
    part.plan.put_off = plan.put_off;
    if (part.plan.empty()) continue;
    StepResult of_part;
    of_part.pending = result->pending;
    ModelRunner& runner = model == PlanModel::kServed ? *served_ : *draft_;
    SKIM_RETURN_IF_ERROR(runner.Run(part.plan, &of_part));
    result->replays += of_part.replays;
    for (size_t i = 0; i < part.entries.size(); ++i) {
      result->sequences[part.entries[i]] = std::move(of_part.sequences[i]);
    }
  }
  return absl::OkStatus();
}

}  // namespace skim
