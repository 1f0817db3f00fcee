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

TokenPruner::TokenPruner(const LayerSegments& segments, const ScoreHeads& heads,
                         const std::vector<Scouts>& scouts, int32_t max_context, Ops* ops)
    : segments_(segments), max_context_(max_context), ops_(*ops) {
  for (size_t b = 0; b + 1 < segments.segments().size(); ++b) {
    const int32_t boundary = segments.segments()[b + 1].first_layer;
    if (heads.empty() || heads[b].empty()) {
      scorers_.push_back({.layers = {{boundary - 1, {}, 0}}, .arrays = 1});
    } else {
      scorers_.push_back(ScorerOf(heads[b], /*windows=*/1));
    }
    const bool scouted = !scouts.empty() && scouts[b].any();
    scouts_.push_back(scouted ? ScorerOf(scouts[b].heads, /*windows=*/2) : Scorer());
    late_.push_back(scouted ? ScorerOf(scouts[b].heads, /*windows=*/1) : scorers_.back());
  }
}

TokenPruner::Scorer TokenPruner::ScorerOf(const std::vector<ScoreHead>& heads, int32_t windows) {
  Scorer scorer;
  scorer.normalize = true;
  for (const ScoreHead& head : heads) {
    auto found = std::ranges::find(scorer.layers, head.layer, &Scorer::Layer::layer);
    if (found == scorer.layers.end()) {
      scorer.layers.push_back({head.layer, {}, 0});
      found = scorer.layers.end() - 1;
    }
    found->heads.push_back(head.head);
  }
  for (Scorer::Layer& layer : scorer.layers) {
    layer.first_array = scorer.arrays;
    scorer.arrays += windows * static_cast<int32_t>(layer.heads.size());
  }
  return scorer;
}

absl::Status TokenPruner::Allocate() {
  const auto positions = static_cast<size_t>(max_context_);
  SKIM_ASSIGN_OR_RETURN(pooled_, ops_.Allocate(positions * sizeof(float)));
  SKIM_ASSIGN_OR_RETURN(allowed_, ops_.Allocate(positions));
  SKIM_ASSIGN_OR_RETURN(top_, ops_.Allocate(positions * sizeof(int32_t)));
  return absl::OkStatus();
}

int32_t TokenPruner::BoundaryIndex(int32_t layer) const { return segments_.SegmentOf(layer) - 1; }

absl::Status TokenPruner::Begin(const StepPlan& plan) {
  scored_.clear();
  size_t floats = 0;
  for (size_t i = 0; i < plan.sequences.size(); ++i) {
    const PlanSequence& sequence = plan.sequences[i];
    // No two slots hold one position.
    const int64_t slots = plan.positions[sequence.row_begin + sequence.row_count - 1] + 1;
    for (size_t c = 0; c < sequence.cuts.size(); ++c) {
      const PlanCut& cut = sequence.cuts[c];
      const auto& scorers = cut.scouted() ? scouts_ : cut.late ? late_ : scorers_;
      const Scorer& scorer = scorers[BoundaryIndex(cut.layer)];
      scored_.push_back({static_cast<int32_t>(i), static_cast<int32_t>(c), &scorer, slots, floats});
      floats += static_cast<size_t>(scorer.arrays * slots);
    }
  }
  if (floats > 0 && (!scores_ || scores_->size() < floats * sizeof(float))) {
    SKIM_ASSIGN_OR_RETURN(scores_, ops_.Allocate(2 * floats * sizeof(float)));
  }
  return absl::OkStatus();
}

TokenPruner::InSpan TokenPruner::Find(const StepLayout& layout, int32_t layer, int32_t sequence) {
  for (const LayerSpan& span : layout.spans) {
    if (layer < span.first_layer || layer >= span.end_layer) continue;
    const auto at = std::ranges::find(span.plan_sequences, sequence);
    if (at == span.plan_sequences.end()) break;
    return {&span, static_cast<int32_t>(at - span.plan_sequences.begin())};
  }
  return {};
}

absl::StatusOr<std::span<const ScoreRequest>> TokenPruner::Requests(const StepPlan& plan,
                                                                    const StepLayout& layout) {
  requests_.clear();
  std::vector<std::pair<const Scorer::Layer*, ScoreRequest>> requests;
  for (Scored& scored : scored_) {
    const PlanSequence& sequence = plan.sequences[scored.sequence];
    const PlanCut& cut = sequence.cuts[scored.cut];
    for (const Scorer::Layer& of : scored.scorer->layers) {
      if (of.layer < layout.first_layer || of.layer >= layout.end_layer) continue;
      const InSpan in = Find(layout, of.layer, scored.sequence);
      if (in.span == nullptr || in.rows().row_count < cut.score_rows ||
          in.rows().slots > scored.most_slots ||
          (scored.slots > 0 && in.rows().slots != scored.slots)) {
        return TooFewRows(sequence);
      }
      scored.slots = in.rows().slots;
      auto at = std::ranges::find(requests, &of, [](const auto& r) { return r.first; });
      if (at == requests.end()) {
        requests.push_back({&of, {of.layer, of.heads, {}}});
        at = requests.end() - 1;
      }
      std::vector<KeyScoreTarget>& targets = at->second.targets;
      float* scores = scores_->As<float>() + scored.scores + of.first_array * scored.slots;
      if (cut.scouted()) {
        targets.push_back({in.index, 1, scores});
        scores += std::ssize(of.heads) * scored.slots;
      }
      targets.push_back({in.index, cut.score_rows, scores});
    }
  }
  for (auto& [of, request] : requests) requests_.push_back(std::move(request));
  std::ranges::stable_sort(requests_, {}, &ScoreRequest::layer);
  return requests_;
}

absl::Status TokenPruner::Choose(const StepLayout& layout, const int32_t* index,
                                 const StepPlan& plan, StepPlan* revived,
                                 std::vector<Visibility>* visible, StepResult* result) {
  for (Scored& scored : scored_) {
    const PlanSequence& sequence = plan.sequences[scored.sequence];
    if (sequence.cuts[scored.cut].chosen_at(segments_.layers()) != layout.end_layer) continue;
    const InSpan in = Find(layout, layout.end_layer - 1, scored.sequence);
    if (in.span == nullptr || in.rows().slots != scored.slots) return TooFewRows(sequence);
    if (in.rows().positions_begin != SequenceRows::kInOrder) {
      scored.slot_positions = index + in.span->slot_positions + in.rows().positions_begin;
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
                   .arrays = scored.scorer->arrays,
                   .normalize = scored.scorer->normalize,
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
  const bool keeps_all = above < sequence.dense_segments && !cut.late;
  std::vector<uint8_t> beyond(static_cast<size_t>(length), keeps_all ? 1 : 0);
  if (!keeps_all) {
    for (const int32_t position : sequence.slot_positions[above]) beyond[position] = 1;
  }
  for (int32_t row = sequence.row_begin; row <= last_row; ++row) {
    const bool passes = plan.enter[row] <= cut.layer && plan.leave[row] > cut.layer;
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
    if (!cut.late) Revive(cut, result->revived, sequence, revived);
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
