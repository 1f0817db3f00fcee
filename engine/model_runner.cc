#include "engine/model_runner.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/status_macros.h"

namespace skim {
namespace {

// Rows whose logits exist at one time: [kHeadRows, vocab] floats is all the memory they
// take, however many prompt log-probabilities are asked for.
constexpr int32_t kHeadRows = 64;

bool ReservesRows(const StepPlan& plan) {
  return std::ranges::any_of(plan.sequences, [](const PlanSequence& sequence) {
    return std::ranges::any_of(sequence.cuts,
                               [](const PlanCut& cut) { return cut.reserved_rows() > 0; });
  });
}

// Whether other steps are likely to be the same but for what is in their index arrays: every row is
// drawn from.
bool OnlyDecodes(const StepPlan& plan) {
  return std::ranges::all_of(plan.sequences, [](const PlanSequence& sequence) {
    return sequence.row_count == sequence.draws && sequence.cuts.empty() &&
           sequence.phantoms.empty();
  });
}

}  // namespace

ModelRunner::ModelRunner(const ModelConfig& config, const Weights& weights,
                         const Predictors& predictors, Ops* ops, const ExecutorOptions& options,
                         const LayerSegments& segments, const KvPool& pool, PendingDraws* pending)
    : config_(config),
      weights_(weights),
      predictors_(predictors),
      ops_(*ops),
      options_(options),
      segments_(segments),
      pool_(pool),
      hidden_(HiddenGeometry::Of(pool.page_bytes, options.kv_pages, config.hidden_size,
                                 options.page_tokens)),
      pending_(*pending),
      sample_rows_(config.vocab_size) {}

absl::StatusOr<std::unique_ptr<ModelRunner>> ModelRunner::Create(
    const ModelConfig& config, const Weights& weights, const Predictors& predictors, Ops* ops,
    const ExecutorOptions& options, const LayerSegments& segments, const KvPool& pool,
    PendingDraws* pending) {
  std::unique_ptr<ModelRunner> runner(
      new ModelRunner(config, weights, predictors, ops, options, segments, pool, pending));
  SKIM_RETURN_IF_ERROR(runner->Allocate());
  return runner;
}

absl::Status ModelRunner::Allocate() {
  const size_t hidden = static_cast<size_t>(config_.hidden_size);
  KvLayout layout{options_.page_tokens, segments_.unit_layers(), config_.kv_heads, config_.head_dim,
                  options_.kv_format};
  layout.padding = static_cast<int64_t>(pool_.page_bytes) - layout.PageBytes();
  SKIM_CHECK(layout.padding >= 0);
  SKIM_ASSIGN_OR_RETURN(head_hidden_, ops_.Allocate(kHeadRows * hidden * sizeof(float)));
  SKIM_ASSIGN_OR_RETURN(head_normed_, ops_.Allocate(kHeadRows * hidden * sizeof(Bf16)));
  SKIM_ASSIGN_OR_RETURN(
      logits_, ops_.Allocate(sizeof(float) * kHeadRows * static_cast<size_t>(config_.vocab_size)));
  const ModelMemory memory{
      pool_.data,
      layout,
      {reinterpret_cast<float*>(pool_.data), options_.kv_pages * int64_t{hidden_.granules_per_page},
       config_.hidden_size, HiddenGeometry::kGranuleFloats},
      pending_.tokens()};
  SKIM_ASSIGN_OR_RETURN(
      transformer_, Transformer::Create(config_, segments_, weights_, predictors_, memory, &ops_,
                                        options_.max_rows, options_.max_context));
  pruner_ = std::make_unique<TokenPruner>(segments_, options_.score_heads, options_.scouts,
                                          options_.max_context, &ops_);
  if (weights_.draft_head && options_.feature_places > 0) {
    SKIM_ASSIGN_OR_RETURN(
        draft_head_,
        DraftHead::Create(config_, weights_, &ops_, options_.feature_places, pending_.tokens()));
  }
  return pruner_->Allocate();
}

LayoutContext ModelRunner::Context() const {
  return {segments_, options_.page_tokens, hidden_, draft_head_ ? options_.feature_places : 0,
          options_.max_rows};
}

absl::Status ModelRunner::CheckRows(const StepPlan& plan) const {
  if (plan.rows() > options_.max_rows) {
    return absl::InternalError(
        absl::StrCat("step plan: ", plan.rows(), " rows, ", options_.max_rows, " are the most"));
  }
  const auto is_token = [this](TokenId token) {
    return IsPending(token) ? PendingDraw(token) < pending_.size()
                            : token >= 0 && token < config_.vocab_size;
  };
  for (TokenId token : plan.tokens) {
    if (!is_token(token)) {
      return absl::InternalError(
          absl::StrCat("step plan: token ", token, " is not in the vocabulary"));
    }
  }
  const auto in_context = [this](int32_t p) { return p >= 0 && p < options_.max_context; };
  const auto exists = [this](PageId page) { return page >= 0 && page < options_.kv_pages; };
  for (int32_t position : plan.positions) {
    if (position != kReservedPosition && !in_context(position)) {
      return absl::InternalError(
          absl::StrCat("step plan: position ", position, " is out of range"));
    }
  }
  for (const PlanSequence& sequence : plan.sequences) {
    for (const PlanPhantoms& phantoms : sequence.phantoms) {
      if (!predictors_.Has(phantoms.cut_layer)) {
        return absl::InternalError(
            absl::StrCat("step plan: nothing predicts from layer ", phantoms.cut_layer));
      }
    }
    if (!std::ranges::all_of(sequence.drafts, is_token)) {
      return absl::InternalError("step plan: a draft is not in the vocabulary");
    }
    if (sequence.draws > 0 && sequence.sampling->HasPenalties() &&
        std::ranges::any_of(sequence.drafts, IsPending)) {
      return absl::InternalError("step plan: penalties on drafts that are not known");
    }
    if (!weights_.Has(sequence.weight_format)) {
      return absl::InternalError(
          absl::StrCat("step plan: ", std::string(WeightFormatName(sequence.weight_format)),
                       " weights are not resident"));
    }
    for (const auto& pages : sequence.segment_pages) {
      for (PageId page : pages) {
        if (!exists(page)) {
          return absl::InternalError(absl::StrCat("step plan: there is no page ", page));
        }
      }
    }
    for (const auto& pages : {sequence.hidden_pages, sequence.deep_hidden_pages}) {
      for (PageId page : pages) {
        if (page != kNoPage && !exists(page)) {
          return absl::InternalError(absl::StrCat("step plan: there is no page ", page));
        }
      }
    }
    for (const auto& positions : sequence.slot_positions) {
      if (!std::ranges::all_of(positions, in_context)) {
        return absl::InternalError("step plan: the position of a slot is out of range");
      }
    }
  }
  return absl::OkStatus();
}

std::vector<ModelRunner::Wanted> ModelRunner::WantedRows(const StepPlan& plan) const {
  std::vector<Wanted> wanted;
  for (size_t s = 0; s < plan.sequences.size(); ++s) {
    const PlanSequence& sequence = plan.sequences[s];
    const int32_t end = sequence.row_begin + sequence.row_count;
    if (plan.ByHead(sequence)) continue;
    if (sequence.logits == LogitsWanted::kAll) {
      for (int32_t row = sequence.row_begin; row < end; ++row) {
        if (plan.positions[row] + 1 < sequence.prompt_tokens) {
          wanted.push_back({row, static_cast<int32_t>(s), /*draw=*/false});
        }
      }
    }
    for (int32_t row = end - sequence.draws; row < end; ++row) {
      wanted.push_back({row, static_cast<int32_t>(s), /*draw=*/true});
    }
  }
  return wanted;
}

absl::Status ModelRunner::Run(const StepPlan& plan, StepResult* result) {
  result->sequences.resize(plan.sequences.size());
  if (plan.empty()) return absl::OkStatus();
  if (pending_.size() == 0) {  // all has been waited for
    layouts_.clear();
    uploads_.clear();
  }
  sampled_.clear();  // of a step that failed
  SKIM_RETURN_IF_ERROR(CheckRows(plan));
  SKIM_RETURN_IF_ERROR(StepLayout::Check(plan, Context()));
  const int64_t replays = ops_.Replays();
  if (OnlyDecodes(plan)) ops_.ExpectRepeat();

  // The step stops where tokens are chosen: rows behind such a layer depend on the choice.
  std::vector<int32_t> stops = {segments_.layers()};
  bool cuts = false;
  for (size_t i = 0; i < plan.sequences.size(); ++i) {
    for (const PlanCut& cut : plan.sequences[i].cuts) {
      stops.push_back(cut.chosen_at(segments_.layers()));
    }
    result->sequences[i].cuts.resize(plan.sequences[i].cuts.size());
    cuts |= !plan.sequences[i].cuts.empty();
  }
  std::ranges::sort(stops);
  stops.erase(std::unique(stops.begin(), stops.end()), stops.end());
  visible_.assign(cuts ? plan.sequences.size() : 0, Visibility());
  SKIM_RETURN_IF_ERROR(pruner_->Begin(plan));
  std::optional<StepPlan> revived;
  if (ReservesRows(plan)) revived = plan;
  const std::vector<Wanted> wanted = WantedRows(plan);
  int32_t first_layer = 0;
  for (const int32_t stop : stops) {
    const bool last = stop == stops.back();
    SKIM_RETURN_IF_ERROR(RunPart(first_layer, stop, revived ? *revived : plan,
                                 last ? std::span(wanted) : std::span<const Wanted>(),
                                 revived ? &*revived : nullptr, result));
    first_layer = stop;
  }
  for (size_t begin = 0; begin < wanted.size(); begin += kHeadRows) {
    const size_t count = std::min<size_t>(kHeadRows, wanted.size() - begin);
    SKIM_RETURN_IF_ERROR(RunHead(plan, std::span(wanted).subspan(begin, count),
                                 index_->As<int32_t>() + head_rows_ + begin, result));
  }
  if (draft_head_) {
    KeepFeatures(plan);
    RunDraftHead(plan, result);
  }
  if (!result->pending) {
    SKIM_RETURN_IF_ERROR(ops_.Wait());
    Tell(result);
  }
  result->replays += ops_.Replays() - replays;
  return absl::OkStatus();
}

std::span<const int32_t> ModelRunner::Uploaded(std::span<const int32_t> list) {
  return uploads_.emplace_back(list.begin(), list.end());
}

absl::Status ModelRunner::RunPart(int32_t first_layer, int32_t end_layer, const StepPlan& plan,
                                  std::span<const Wanted> wanted, StepPlan* revived,
                                  StepResult* result) {
  // Uploads are only enqueued: what they read has to outlive the step.
  StepLayout& layout =
      layouts_.emplace_back(StepLayout::Build(plan, Context(), first_layer, end_layer, visible_));
  head_rows_ = layout.index.size();
  for (const Wanted& want : wanted) layout.index.push_back(want.row);
  if (layout.spans.empty() && layout.phantoms.empty() && wanted.empty()) return absl::OkStatus();
  const size_t index_bytes = layout.index.size() * sizeof(int32_t);
  if (!index_ || index_->size() < index_bytes) {
    SKIM_ASSIGN_OR_RETURN(index_, ops_.Allocate(2 * index_bytes));
  }
  ops_.Upload(index_->data(), layout.index.data(), index_bytes);
  SKIM_ASSIGN_OR_RETURN(const std::span<const ScoreRequest> scores,
                        pruner_->Requests(plan, layout));
  transformer_->Run(layout, index_->As<int32_t>(), scores);
  return pruner_->Choose(layout, index_->As<int32_t>(), plan, revived, &visible_, result);
}

absl::Status ModelRunner::RunHead(const StepPlan& plan, std::span<const Wanted> wanted,
                                  const int32_t* index, StepResult* result) {
  const auto rows = static_cast<int64_t>(wanted.size());
  const int64_t hidden = config_.hidden_size, vocab = config_.vocab_size;
  std::vector<FormatRows> formats;
  sample_rows_.Clear();
  for (const Wanted& want : wanted) {
    const PlanSequence& sequence = plan.sequences[want.sequence];
    AppendRows(sequence.weight_format, 1, &formats);
    const int32_t position = plan.positions[want.row] + 1;
    if (want.draw) {
      sample_rows_.AddDraw(sequence, position);
    } else {
      sample_rows_.AddScore(sequence, position);
    }
  }
  const Matrix<float> x{head_hidden_->As<float>(), rows, hidden, hidden};
  const Matrix<Bf16> normed{head_normed_->As<Bf16>(), rows, hidden, hidden};
  const Matrix<float> logits{logits_->As<float>(), rows, vocab, vocab};
  ops_.GatherRows(transformer_->Hidden(plan.rows()), index, x);
  AdaptExits(plan, wanted, x);
  ops_.RmsNorm(x, Floats(weights_.final_norm), config_.norm_eps, normed);
  LinearByFormat(ops_, formats, normed, weights_.head, nullptr, /*accumulate=*/false, logits);
  if (probe_ && !result->pending) SKIM_RETURN_IF_ERROR(Probe(plan, wanted));

  Sample(logits, {}, wanted, result);
  return absl::OkStatus();
}

void ModelRunner::Sample(Matrix<const float> logits, const ColumnTokens& columns,
                         std::span<const Wanted> wanted, StepResult* result) {
  SampleArgs args{logits, sample_rows_.rows(), columns};
  if (!result->pending) {
    Sampled& sampled = sampled_.emplace_back();
    sampled.wanted.assign(wanted.begin(), wanted.end());
    sampled.tokens.resize(wanted.size());
    return ops_.Sample(args, sampled.tokens);
  }
  const PendingDraws::Places places = pending_.Add(static_cast<int32_t>(wanted.size()));
  args.drawn = places.drawn;
  ops_.Sample(args, places.results);
  for (size_t i = 0; i < wanted.size(); ++i) {
    SampledToken& token = result->sequences[wanted[i].sequence].sampled.emplace_back();
    token.token = PendingToken(places.first + static_cast<int32_t>(i));
  }
}

void ModelRunner::Tell(StepResult* result) {
  for (Sampled& sampled : sampled_) {
    for (size_t i = 0; i < sampled.wanted.size(); ++i) {
      const Wanted& wanted = sampled.wanted[i];
      SampledToken& token = sampled.tokens[i];
      SequenceResult& sequence = result->sequences[wanted.sequence];
      if (wanted.draw) {
        sequence.sampled.push_back(std::move(token));
      } else if (token.finite && token.token >= 0) {
        sequence.prompt_logprobs.push_back(std::move(token));
      } else {
        sequence.status = absl::InternalError("the model's output has no usable probabilities");
      }
    }
  }
  sampled_.clear();
}

void ModelRunner::AdaptExits(const StepPlan& plan, std::span<const Wanted> wanted,
                             Matrix<float> x) {
  const auto adapter_of = [&](const Wanted& want) {
    const bool draft = plan.sequences[want.sequence].draft;
    return draft ? weights_.exit_adapters.At(plan.leave[want.row]) : nullptr;
  };
  // Once per stretch of neighbours that left at one exit.
  for (size_t begin = 0, end = 0; begin < wanted.size(); begin = end) {
    const LinearMap* const adapter = adapter_of(wanted[begin]);
    while (end < wanted.size() && adapter_of(wanted[end]) == adapter) ++end;
    if (adapter == nullptr) continue;
    const auto first = static_cast<int64_t>(begin), count = static_cast<int64_t>(end - begin);
    const Matrix<float> rows = x.Rows(first, count);
    const Matrix<Bf16> normed =
        Matrix<Bf16>{head_normed_->As<Bf16>(), x.rows, x.cols, x.cols}.Rows(first, count);
    ops_.RmsNorm(rows, weights_.exit_adapters.ones().As<float>(), config_.norm_eps, normed);
    ops_.Linear(normed, *adapter->weight, adapter->bias->As<float>(), /*accumulate=*/true, rows);
  }
}

void ModelRunner::KeepFeatures(const StepPlan& plan) {
  std::vector<int32_t> index, kept_at;
  for (const PlanSequence& sequence : plan.sequences) {
    if (sequence.draft || sequence.feature_place == kNoFeatures) continue;
    const int32_t end = sequence.row_begin + sequence.row_count;
    for (int32_t i = 0; i < sequence.draws; ++i) {
      index.push_back(end - sequence.draws + i);
      kept_at.push_back(sequence.feature_place * kFeatureRows + i);
    }
  }
  for (size_t begin = 0; begin < index.size(); begin += DraftHead::kMostRows) {
    const size_t count = std::min<size_t>(DraftHead::kMostRows, index.size() - begin);
    draft_head_->Keep(transformer_->Hidden(plan.rows()),
                      Uploaded(std::span(index).subspan(begin, count)),
                      Uploaded(std::span(kept_at).subspan(begin, count)));
  }
}

void ModelRunner::RunDraftHead(const StepPlan& plan, StepResult* result) {
  std::vector<Wanted> drafting;
  for (size_t s = 0; s < plan.sequences.size(); ++s) {
    const PlanSequence& sequence = plan.sequences[s];
    if (!plan.ByHead(sequence)) continue;
    drafting.push_back({sequence.row_begin, static_cast<int32_t>(s), /*draw=*/true});
  }
  for (size_t begin = 0; begin < drafting.size(); begin += DraftHead::kMostRows) {
    const size_t count = std::min<size_t>(DraftHead::kMostRows, drafting.size() - begin);
    const auto part = std::span(drafting).subspan(begin, count);
    std::vector<TokenId> tokens;
    std::vector<int32_t> kept_at;
    DraftCandidates& candidates = draft_head_->candidates();
    candidates.Clear();
    sample_rows_.Clear();
    for (const Wanted& want : part) {
      const PlanSequence& sequence = plan.sequences[want.sequence];
      tokens.push_back(plan.tokens[want.row]);
      kept_at.push_back(sequence.feature_place * kFeatureRows + sequence.feature_row);
      const int32_t position = plan.positions[want.row] + 1;
      sample_rows_.AddDraw(sequence, position, candidates.Add(sequence, position));
    }
    const Matrix<const float> logits =
        draft_head_->Run(Uploaded(tokens), Uploaded(kept_at), Uploaded(candidates.own()));
    Sample(logits, draft_head_->columns(), part, result);
  }
}

absl::Status ModelRunner::Probe(const StepPlan& plan, std::span<const Wanted> wanted) {
  std::vector<float> row(static_cast<size_t>(config_.vocab_size));
  for (size_t i = 0; i < wanted.size(); ++i) {
    ops_.Download(row.data(), logits_->As<float>() + i * row.size(), row.size() * sizeof(float));
    SKIM_RETURN_IF_ERROR(ops_.Wait());
    probe_(plan.sequences[wanted[i].sequence].id, plan.positions[wanted[i].row], row);
  }
  return absl::OkStatus();
}

}  // namespace skim
