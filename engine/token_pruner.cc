#include "engine/token_pruner.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"

namespace skim {
namespace {

// Layers of a plan at which a row of `sequence` that reaches `layer` stops next.
int16_t NextStop(const PlanSequence& sequence, int32_t layer, int32_t layers) {
  for (const PlanCut& cut : sequence.cuts) {
    if (cut.layer > layer) return cut.layer;
  }
  return static_cast<int16_t>(layers);
}

absl::Status TooFewRows(const PlanSequence& sequence) {
  return absl::InternalError(
      absl::StrCat("step plan: too few rows score (sequence ", sequence.id, ")"));
}

bool Contains(const std::vector<int32_t>& sorted, int32_t value) {
  return std::ranges::binary_search(sorted, value);
}

}  // namespace

TokenPruner::TokenPruner(const ModelConfig& config, const LayerSegments& segments,
                         const ScoreHeads& heads, int32_t max_context, Ops* ops)
    : config_(config),
      segments_(segments),
      heads_(heads),
      max_context_(max_context),
      ops_(*ops) {}

absl::Status TokenPruner::Allocate() {
  const auto positions = static_cast<size_t>(max_context_);
  SKIM_ASSIGN_OR_RETURN(pooled_, ops_.Allocate(positions * sizeof(float)));
  SKIM_ASSIGN_OR_RETURN(allowed_, ops_.Allocate(positions));
  SKIM_ASSIGN_OR_RETURN(top_, ops_.Allocate(positions * sizeof(int32_t)));
  return absl::OkStatus();
}

int32_t TokenPruner::BoundaryIndex(int32_t layer) const { return segments_.SegmentOf(layer) - 1; }

absl::StatusOr<std::span<const ScoreRequest>> TokenPruner::Requests(const StepPlan& plan,
                                                                    const StepLayout& layout) {
  requests_.clear();
  scored_.clear();
  const int32_t boundary = layout.end_layer;
  if (boundary == segments_.layers() || layout.spans.empty()) return requests_;

  // A request per layer that scores for this boundary, and its heads.
  const bool by_head = !heads_.empty() && !heads_[BoundaryIndex(boundary)].empty();
  if (by_head) {
    for (const ScoreHead& head : heads_[BoundaryIndex(boundary)]) {
      const auto found = std::ranges::find(requests_, head.layer, &ScoreRequest::layer);
      ScoreRequest& request = found != requests_.end() ? *found : requests_.emplace_back();
      request.layer = head.layer;
      request.heads.push_back(head.head);
    }
  } else {
    requests_.push_back({boundary - 1, {}, {}});
  }
  int32_t arrays = 0;
  for (const ScoreRequest& request : requests_) {
    arrays += std::max<int32_t>(1, static_cast<int32_t>(request.heads.size()));
  }

  // The segment's slots are the same at each of its layers, so the last span tells them.
  const LayerSpan& span = layout.spans.back();
  size_t floats = 0;
  for (size_t index = 0; index < plan.sequences.size(); ++index) {
    const std::vector<PlanCut>& cuts = plan.sequences[index].cuts;
    const auto cut = std::ranges::find(cuts, boundary, [](const PlanCut& c) { return c.layer; });
    if (cut == cuts.end()) continue;
    const auto in_span = std::ranges::find(span.plan_sequences, static_cast<int32_t>(index));
    if (span.end_layer != boundary || in_span == span.plan_sequences.end()) {
      return TooFewRows(plan.sequences[index]);
    }
    const int64_t slots = span.sequences[in_span - span.plan_sequences.begin()].slots;
    scored_.push_back({static_cast<int32_t>(index), static_cast<int32_t>(cut - cuts.begin()),
                       arrays, slots, nullptr, floats});
    floats += static_cast<size_t>(arrays * slots);
  }
  if (scored_.empty()) {
    requests_.clear();
    return requests_;
  }
  if (!scores_ || scores_->size() < floats * sizeof(float)) {
    SKIM_ASSIGN_OR_RETURN(scores_, ops_.Allocate(2 * floats * sizeof(float)));
  }

  for (const Scored& scored : scored_) {
    const PlanSequence& sequence = plan.sequences[scored.sequence];
    float* scores = scores_->As<float>() + scored.scores;
    for (ScoreRequest& request : requests_) {
      const auto at = std::ranges::find_if(layout.spans, [&](const LayerSpan& s) {
        return s.first_layer <= request.layer && request.layer < s.end_layer;
      });
      const auto in_span = std::ranges::find(at->plan_sequences, scored.sequence);
      const auto i = static_cast<int32_t>(in_span - at->plan_sequences.begin());
      if (in_span == at->plan_sequences.end() || at->sequences[i].slots != scored.slots ||
          at->sequences[i].row_count < sequence.cuts[scored.cut].score_rows) {
        return TooFewRows(sequence);
      }
      request.targets.push_back({i, sequence.cuts[scored.cut].score_rows, scores});
      scores += scored.slots * std::max<int64_t>(1, static_cast<int64_t>(request.heads.size()));
    }
  }
  return requests_;
}

absl::Status TokenPruner::Choose(const StepLayout& layout, const int32_t* index,
                                 const StepPlan& plan, StepPlan* revived,
                                 std::vector<Visibility>* visible, StepResult* result) {
  if (scored_.empty()) return absl::OkStatus();
  const LayerSpan& span = layout.spans.back();
  for (Scored& scored : scored_) {
    const auto at = std::ranges::find(span.plan_sequences, scored.sequence);
    const SequenceRows& rows = span.sequences[at - span.plan_sequences.begin()];
    if (rows.positions_begin != SequenceRows::kInOrder) {
      scored.slot_positions = index + span.slot_positions + rows.positions_begin;
    }
    SKIM_RETURN_IF_ERROR(ChooseOne(scored, plan, revived, visible,
                                   &result->sequences[scored.sequence].cuts[scored.cut]));
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<int32_t>> TokenPruner::Top(const PruneRules* rules,
                                                      const std::vector<uint8_t>* allowed,
                                                      int32_t length, int32_t count) {
  std::vector<IndexRange> forced;
  if (rules != nullptr) {
    forced = rules->pinned;
    forced.push_back({0, rules->sinks});
    forced.push_back({length - rules->window, length});
  }
  if (allowed != nullptr) ops_.Upload(allowed_->data(), allowed->data(), allowed->size());
  std::vector<int32_t> rows(static_cast<size_t>(count));
  ops_.TopRows({.scores = pooled_->As<float>(),
                .rows = length,
                .allowed = allowed != nullptr ? allowed_->As<uint8_t>() : nullptr,
                .forced = forced,
                .count = count,
                .out = top_->As<int32_t>()});
  ops_.Download(rows.data(), top_->data(), rows.size() * sizeof(int32_t));
  SKIM_RETURN_IF_ERROR(ops_.Wait());
  return rows;
}

std::vector<uint8_t> TokenPruner::RealTokens(const StepPlan& plan, const PlanSequence& sequence,
                                             int32_t layer, int32_t length) const {
  const int32_t below = segments_.SegmentOf(layer - 1);
  if (below < sequence.cut_segment || below >= sequence.dense_segments) return {};
  std::vector<uint8_t> real(static_cast<size_t>(length), 0);
  for (const int32_t position : sequence.slot_positions[below]) real[position] = 1;
  for (int32_t row = sequence.row_begin; row < sequence.row_begin + sequence.row_count; ++row) {
    if (plan.enter[row] < layer && plan.leave[row] >= layer) real[plan.positions[row]] = 1;
  }
  return real;
}

absl::Status TokenPruner::ChooseOne(const Scored& scored, const StepPlan& plan, StepPlan* revived,
                                    std::vector<Visibility>* visible, CutResult* result) {
  const PlanSequence& sequence = plan.sequences[scored.sequence];
  const PlanCut& cut = sequence.cuts[scored.cut];
  const int32_t last_row = sequence.row_begin + sequence.row_count - 1;
  const int32_t length = plan.positions[last_row] + 1;
  ops_.PoolScores({.scores = scores_->As<float>() + scored.scores,
                   .arrays = scored.arrays,
                   .normalize = !heads_.empty() && !heads_[BoundaryIndex(cut.layer)].empty(),
                   .slots = scored.slots,
                   .slot_positions = scored.slot_positions,
                   .radius = sequence.rules->pool_radius,
                   .positions = length,
                   .pooled = pooled_->As<float>()});

  // What the rows see below the cut: chosen can be no more, and of phantoms none.
  Visibility& sees = (*visible)[scored.sequence];
  const std::vector<uint8_t> real = RealTokens(plan, sequence, cut.layer, length);
  int64_t present = scored.slots;
  if (!sees.empty()) present = std::ranges::count(sees, 1);
  if (!real.empty()) present = std::ranges::count(real, 1);
  SKIM_ASSIGN_OR_RETURN(result->chosen,
                        Top(sequence.rules, real.empty() ? nullptr : &real, length,
                            static_cast<int32_t>(std::min<int64_t>(cut.choose, present))));

  const int32_t above = segments_.SegmentOf(cut.layer);
  const bool keeps_all = above < sequence.dense_segments;
  std::vector<uint8_t> beyond(static_cast<size_t>(length), keeps_all ? 1 : 0);
  if (!keeps_all) {
    for (const int32_t position : sequence.slot_positions[above]) beyond[position] = 1;
  }
  for (int32_t row = sequence.row_begin; row <= last_row; ++row) {
    const bool passes = plan.enter[row] < cut.layer && plan.leave[row] > cut.layer;
    if (passes) beyond[plan.positions[row]] = 1;
  }
  if (cut.revive > 0) {
    std::vector<uint8_t> missing(static_cast<size_t>(length), 0);
    int32_t candidates = 0;
    for (const int32_t position : result->chosen) {
      if (beyond[position] != 0) continue;
      missing[position] = 1;
      ++candidates;
    }
    SKIM_ASSIGN_OR_RETURN(result->revived,
                          Top(nullptr, &missing, length, std::min(candidates, cut.revive)));
    Revive(cut, result->revived, sequence, revived);
    for (const int32_t position : result->revived) beyond[position] = 1;
  }
  if (sequence.rules->strict) {
    sees.assign(static_cast<size_t>(length), 0);
    for (const int32_t position : result->chosen) sees[position] = beyond[position];
  }
  return absl::OkStatus();
}

void TokenPruner::Revive(const PlanCut& cut, const std::vector<int32_t>& positions,
                         const PlanSequence& sequence, StepPlan* plan) const {
  const int16_t stop = NextStop(sequence, cut.layer, segments_.layers());
  std::vector<int32_t> waiting = positions;  // without a row so far
  int32_t reserved = -1;
  for (int32_t row = sequence.row_begin; row < sequence.row_begin + sequence.row_count; ++row) {
    if (plan->positions[row] == kReservedPosition) {
      if (reserved < 0 && plan->enter[row] == cut.layer) reserved = row;
    } else if (plan->leave[row] == cut.layer && Contains(positions, plan->positions[row])) {
      plan->leave[row] = stop;  // revived at an earlier cut of this step, and goes on
      std::erase(waiting, plan->positions[row]);
    }
  }
  for (const int32_t position : waiting) {
    plan->positions[reserved] = position;
    plan->tokens[reserved] = sequence.tokens[position];
    plan->leave[reserved] = stop;
    ++reserved;
  }
}

}  // namespace skim
