#include "tests/engine/harness.h"

#include <algorithm>
#include <numeric>
#include <span>

#include "base/check.h"
#include "base/status_macros.h"

namespace skim {

absl::StatusOr<std::unique_ptr<EngineHarness>> EngineHarness::Load(const std::string& directory,
                                                                   const HarnessOptions& options) {
  auto harness = std::make_unique<EngineHarness>();
  EngineHarness& h = *harness;
  SKIM_ASSIGN_OR_RETURN(h.config_, LoadModelConfig(directory));
  SKIM_ASSIGN_OR_RETURN(Checkpoint checkpoint, Checkpoint::Open(directory));
  BackendOptions backend;
  backend.backend = options.backend;
  backend.isa = options.isa;
  backend.threads = options.threads;
  backend.pin_threads = false;
  backend.cuda_gemm = options.cuda_gemm;
  backend.cuda_graphs = options.cuda_graphs;
  SKIM_ASSIGN_OR_RETURN(h.ops_, MakeOps(backend));
  SKIM_ASSIGN_OR_RETURN(h.weights_,
                        Weights::Load(h.config_, checkpoint, options.formats, h.ops_.get(), {}));
  SKIM_ASSIGN_OR_RETURN(h.predictors_,
                        Predictors::Load(h.config_, checkpoint, options.boundaries, h.ops_.get()));
  ExecutorOptions executor;
  executor.max_rows = options.max_rows;
  executor.max_context = h.config_.max_positions;
  executor.page_tokens = options.page_tokens;
  executor.kv_pages = options.kv_pages;
  executor.kv_format = options.kv_format;
  executor.boundaries = options.boundaries;
  executor.score_heads = options.score_heads;
  executor.scouts = options.scouts;
  executor.pending_draws = options.pending_draws;
  const bool drafts = !options.draft_model.empty();
  if (drafts) {
    SKIM_ASSIGN_OR_RETURN(h.draft_config_, LoadModelConfig(options.draft_model));
    SKIM_ASSIGN_OR_RETURN(checkpoint, Checkpoint::Open(options.draft_model));
    SKIM_ASSIGN_OR_RETURN(h.draft_weights_,
                          Weights::Load(h.draft_config_, checkpoint,
                                        std::span(&options.draft_format, 1), h.ops_.get(), {}));
  }
  const DraftModel draft{h.draft_config_, h.draft_weights_};
  SKIM_ASSIGN_OR_RETURN(
      h.executor_, Executor::Create(h.config_, h.weights_, h.predictors_, h.ops_.get(), executor,
                                    drafts ? &draft : nullptr));
  h.executor_->SetLogitsProbe([&h](SeqId id, int32_t position, std::span<const float> logits) {
    h.logits_[{id, position}].assign(logits.begin(), logits.end());
  });
  h.free_pages_.resize(static_cast<size_t>(options.kv_pages));
  std::iota(h.free_pages_.begin(), h.free_pages_.end(), 0);
  std::shuffle(h.free_pages_.begin(), h.free_pages_.end(), h.rng_);
  return harness;
}

HarnessSequence EngineHarness::NewSequence(std::vector<TokenId> prompt) {
  HarnessSequence sequence;
  sequence.id = next_id_++;
  sequence.prompt_tokens = static_cast<int32_t>(prompt.size());
  sequence.tokens = std::move(prompt);
  sequence.sampling.temperature = 0;
  sequence.sampling.max_tokens = config_.max_positions;
  sequence.pages.resize(executor_->kv_geometry().segment_units.size());
  return sequence;
}

void EngineHarness::ReservePages(HarnessSequence* sequence, int32_t positions) {
  const KvGeometry& geometry = executor_->kv_geometry();
  const int32_t blocks = (positions + geometry.page_tokens - 1) / geometry.page_tokens;
  for (size_t s = 0; s < sequence->pages.size(); ++s) {
    while (static_cast<int32_t>(sequence->pages[s].size()) < blocks * geometry.segment_units[s]) {
      SKIM_CHECK(!free_pages_.empty());
      sequence->pages[s].push_back(free_pages_.back());
      free_pages_.pop_back();
    }
  }
}

void EngineHarness::ReserveHidden(HarnessSequence* sequence, int32_t positions) {
  const int32_t rows = executor_->kv_geometry().hidden_rows_per_page;
  while (static_cast<int32_t>(sequence->hidden_pages.size()) * rows < positions) {
    SKIM_CHECK(!free_pages_.empty());
    sequence->hidden_pages.push_back(free_pages_.back());
    free_pages_.pop_back();
  }
}

PlanSequence EngineHarness::Entry(const HarnessSequence& sequence, int32_t row_begin,
                                  int32_t row_count) const {
  PlanSequence entry;
  entry.id = sequence.id;
  entry.row_begin = row_begin;
  entry.row_count = row_count;
  entry.logits = LogitsWanted::kAll;
  entry.sampling = &sequence.sampling;
  entry.tokens = sequence.tokens;
  entry.prompt_tokens = sequence.prompt_tokens;
  entry.weight_format = sequence.format;
  for (const auto& pages : sequence.pages) entry.segment_pages.emplace_back(pages);
  entry.hidden_pages = sequence.hidden_pages;
  return entry;
}

absl::Status EngineHarness::Step(const std::vector<Work>& work, StepResult* result) {
  StepPlan plan;
  for (const auto& [sequence, rows] : work) {
    ReservePages(sequence, sequence->computed + rows);
    PlanSequence entry = Entry(*sequence, plan.rows(), rows);
    for (int32_t i = 0; i < rows; ++i) {
      plan.positions.push_back(sequence->computed + i);
      plan.tokens.push_back(sequence->tokens[plan.positions.back()]);
      plan.enter.push_back(0);
      plan.leave.push_back(static_cast<int16_t>(config_.layers));
    }
    entry.draws = sequence->computed + rows == static_cast<int32_t>(sequence->tokens.size());
    plan.sequences.push_back(std::move(entry));
  }
  StepResult own;
  if (!result) result = &own;
  SKIM_RETURN_IF_ERROR(executor_->Execute(plan, result));
  for (size_t i = 0; i < work.size(); ++i) {
    SKIM_RETURN_IF_ERROR(result->sequences[i].status);
    work[i].sequence->computed += work[i].rows;
    for (const SampledToken& token : result->sequences[i].sampled) {
      work[i].sequence->tokens.push_back(token.token);
    }
  }
  return absl::OkStatus();
}

absl::Status EngineHarness::Generate(HarnessSequence* sequence, int32_t chunk, int32_t decode) {
  while (sequence->computed < sequence->prompt_tokens) {
    const int32_t rows = std::min(chunk, sequence->prompt_tokens - sequence->computed);
    SKIM_RETURN_IF_ERROR(Step({{sequence, rows}}));
  }
  for (int32_t i = 0; i < decode; ++i) SKIM_RETURN_IF_ERROR(Step({{sequence, 1}}));
  return absl::OkStatus();
}

void EngineHarness::Preempt(HarnessSequence* sequence) {
  for (auto& pages : sequence->pages) {
    free_pages_.insert(free_pages_.end(), pages.begin(), pages.end());
    pages.clear();
  }
  sequence->computed = 0;
}

void EngineHarness::SharePrefix(const HarnessSequence& from, int32_t blocks, HarnessSequence* to) {
  const KvGeometry& geometry = executor_->kv_geometry();
  for (size_t s = 0; s < to->pages.size(); ++s) {
    const auto count = blocks * geometry.segment_units[s];
    to->pages[s].assign(from.pages[s].begin(), from.pages[s].begin() + count);
  }
  to->computed = blocks * geometry.page_tokens;
}

}  // namespace skim
