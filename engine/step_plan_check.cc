// What a StepPlan must fulfil before anything is written for it.
#include <algorithm>
#include <set>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "engine/step_layout.h"

namespace skim {
namespace {

class SequenceCheck {
 public:
  SequenceCheck(const StepPlan& plan, const PlanSequence& sequence, const LayoutContext& context)
      : plan_(plan), sequence_(sequence), context_(context) {}

  absl::Status Run() {
    if (sequence_.segment_pages.size() != context_.segments.segments().size()) {
      return Broken("pages for another number of segments");
    }
    const auto segments = static_cast<int32_t>(sequence_.segment_pages.size());
    if (sequence_.dense_segments < segments && sequence_.dense_segments != sequence_.cut_segment) {
      return Broken("dense segments end elsewhere than at the first cut");
    }
    if (sequence_.cut_segment < segments &&
        sequence_.slot_positions.size() != sequence_.segment_pages.size()) {
      return Broken("slot positions for another number of segments");
    }
    SKIM_RETURN_IF_ERROR(CheckCuts());
    SKIM_RETURN_IF_ERROR(CheckRows());
    SKIM_RETURN_IF_ERROR(CheckDraws());
    SKIM_RETURN_IF_ERROR(CheckFeatures());
    SKIM_RETURN_IF_ERROR(CheckPages());
    return CheckPhantoms();
  }

 private:
  absl::Status Broken(const char* what) const {
    return absl::InternalError(absl::StrCat("step plan: ", what, " (sequence ", sequence_.id, ")"));
  }

  int32_t layers() const { return context_.segments.layers(); }
  int32_t end_row() const { return sequence_.row_begin + sequence_.row_count; }

  absl::Status CheckCuts() {
    if (sequence_.cuts.empty()) return absl::OkStatus();
    if (sequence_.rules == nullptr) return Broken("cuts without rules");
    int32_t before = 0;
    for (const PlanCut& cut : sequence_.cuts) {
      if (cut.layer <= before || !context_.segments.IsBoundary(cut.layer)) {
        return Broken("a cut is no boundary, or cuts do not ascend");
      }
      if (cut.choose < 1 || cut.revive < 0 || cut.score_rows < 1)
        return Broken("a cut chooses nobody");
      if (cut.scouted() && (cut.scout_end <= cut.layer || cut.scout_end > layers() ||
                            cut.revive > 0 || sequence_.cuts.size() > 1)) {
        return Broken("scouts with another cut, with revived tokens or without layers to run");
      }
      const int32_t above = context_.segments.SegmentOf(cut.layer);
      if (cut.reserved_rows() > 0 && above < sequence_.dense_segments) {
        return Broken("tokens are revived into a dense segment");
      }
      if (cut.late && (cut.scouted() || above >= sequence_.dense_segments)) {
        return Broken("scouts, or a segment with gaps, where tokens are revived late");
      }
      before = cut.layer;
      reserved_ += cut.reserved_rows();
    }
    if (reserved_ >= sequence_.row_count) return Broken("no row but reserved ones");
    return absl::OkStatus();
  }

  absl::Status CheckRows() {
    int32_t row = sequence_.row_begin;
    for (const PlanCut& cut : sequence_.cuts) {
      for (int32_t i = 0; i < cut.reserved_rows(); ++i, ++row) {
        if (plan_.positions[row] != kReservedPosition || plan_.enter[row] != cut.layer ||
            plan_.leave[row] != cut.layer) {
          return Broken("a reserved row is taken");
        }
      }
    }
    for (const int32_t first = row; row < end_row(); ++row) {
      if (plan_.positions[row] < 0) return Broken("a row has no position");
      if (row > first && plan_.positions[row] <= plan_.positions[row - 1]) {
        return Broken("positions do not ascend");
      }
      if (ByHead(row)) continue;
      if (plan_.enter[row] < 0 || plan_.enter[row] >= plan_.leave[row] ||
          plan_.leave[row] > layers()) {
        return Broken("a row's layers are no interval");
      }
      const int32_t position = plan_.positions[row];
      if (sequence_.scouts() && (plan_.enter[row] != sequence_.cuts[0].layer ||
                                 plan_.leave[row] != sequence_.cuts[0].scout_end)) {
        return Broken("a scout runs other layers");
      }
      const bool kept = plan_.leave[row] < layers() && !sequence_.draft && !sequence_.scouts();
      if ((plan_.enter[row] > 0 && !HasHiddenRow(position, plan_.enter[row])) ||
          (kept && !HasHiddenRow(position, plan_.leave[row]))) {
        return Broken("a row has no hidden row");
      }
    }
    return absl::OkStatus();
  }

  // Runs no layer: its token goes to the draft head.
  bool ByHead(int32_t row) const {
    return sequence_.draft && sequence_.row_count == 1 && sequence_.draws == 1 &&
           plan_.enter[row] == 0 && plan_.leave[row] == 0;
  }

  // Where a row of this position stops at `layer`, or goes on.
  bool HasHiddenRow(int32_t position, int32_t layer) {
    const HiddenGeometry& hidden = context_.hidden;
    if (context_.segments.SegmentOf(layer) <= sequence_.cut_segment) {
      return hidden.Keeps(sequence_.hidden_pages, position);
    }
    if (position >= sequence_.prompt_tokens) return false;
    if (deep_.empty()) deep_ = DeepHiddenIndices(plan_, sequence_, context_.segments);
    return hidden.Keeps(sequence_.deep_hidden_pages, deep_[position]);
  }

  // A draw needs the tokens up to its row, and that row alone may be one of a draft pass.
  absl::Status CheckDraws() const {
    if (sequence_.draws < 0 || sequence_.draws > sequence_.row_count - reserved_ ||
        (sequence_.draws > 0 && sequence_.logits == LogitsWanted::kNone)) {
      return Broken("draws without rows, or without logits");
    }
    SKIM_RETURN_IF_ERROR(CheckSkipped());
    const size_t known = sequence_.tokens.size() + sequence_.drafts.size();
    for (int32_t row = end_row() - sequence_.draws; row < end_row(); ++row) {
      if (static_cast<size_t>(plan_.positions[row]) >= known) {
        return Broken("a draw follows no token");
      }
      if ((plan_.leave[row] < layers() && !sequence_.draft) || sequence_.scouts()) {
        return Broken("a row is drawn from below the last layer");
      }
    }
    return absl::OkStatus();
  }

  absl::Status CheckSkipped() const {
    int32_t before = -1;
    for (const int32_t layer : sequence_.skipped) {
      if (!sequence_.draft || !sequence_.hidden_pages.empty()) {
        return Broken("layers are skipped by rows that others build on");
      }
      if (layer <= before || layer >= plan_.leave[sequence_.row_begin]) {
        return Broken("skipped layers do not ascend to where its rows leave");
      }
      before = layer;
    }
    return absl::OkStatus();
  }

  absl::Status CheckFeatures() const {
    const bool placed = sequence_.feature_place != kNoFeatures;
    if (sequence_.feature_place < kNoFeatures ||
        sequence_.feature_place >= context_.feature_places ||
        (placed && sequence_.draws > kFeatureRows)) {
      return Broken("its hidden rows for the draft head have no place");
    }
    if (!ByHead(sequence_.row_begin)) return absl::OkStatus();
    if (!placed || sequence_.feature_row < 0 || sequence_.feature_row >= kFeatureRows) {
      return Broken("the draft head has no row to go on from");
    }
    return absl::OkStatus();
  }

  // Every segment has the pages that its rows may come to need.
  absl::Status CheckPages() const {
    const auto& all = context_.segments.segments();
    for (size_t s = 0; s < all.size(); ++s) {
      const int32_t first_layer = all[s].first_layer, end_layer = first_layer + all[s].layers;
      int64_t rows = 0, last = -1;
      // All who pass the last cut below count as its revived, wherever they came from.
      for (const PlanCut& cut : sequence_.cuts) {
        if (cut.layer <= first_layer) rows = cut.reserved_rows();
      }
      for (int32_t row = sequence_.row_begin; row < end_row(); ++row) {
        if (plan_.enter[row] >= end_layer || plan_.leave[row] <= first_layer) continue;
        if (plan_.positions[row] == kReservedPosition) continue;
        ++rows;
        last = std::max<int64_t>(last, plan_.positions[row]);
      }
      if (rows == 0) continue;
      const bool dense = static_cast<int32_t>(s) < sequence_.dense_segments;
      const int64_t slots =
          dense ? last + 1 : static_cast<int64_t>(sequence_.slot_positions[s].size()) + rows;
      const int64_t blocks = (slots + context_.page_tokens - 1) / context_.page_tokens;
      if (static_cast<int64_t>(sequence_.segment_pages[s].size()) <
          blocks * context_.segments.units()[s]) {
        return Broken("too few KV pages");
      }
    }
    return absl::OkStatus();
  }

  // They stand before the last row, and so in pages that it was found to have.
  absl::Status CheckPhantoms() {
    for (const PlanPhantoms& phantoms : sequence_.phantoms) {
      const int32_t last = end_row() - 1;
      const int32_t end = sequence_.scouts() ? sequence_.cuts[0].scout_end : layers();
      const bool boundaries =
          context_.segments.IsBoundary(phantoms.cut_layer) &&
          context_.segments.IsBoundary(phantoms.first_layer) &&
          (phantoms.end_layer == end || context_.segments.IsBoundary(phantoms.end_layer));
      if (!boundaries || phantoms.cut_layer > phantoms.first_layer ||
          phantoms.first_layer >= phantoms.end_layer || plan_.enter[last] > phantoms.first_layer ||
          plan_.leave[last] < phantoms.end_layer) {
        return Broken("phantoms are wanted of other layers than the rows run");
      }
      if (sequence_.dense_segments != PlanSequence::kAllDense) {
        return Broken("phantoms of a sequence whose slots are not its positions");
      }
      int32_t before = -1;
      for (const int32_t position : phantoms.positions) {
        if (position <= before || position >= plan_.positions[last] ||
            position >= sequence_.prompt_tokens) {
          return Broken("positions of phantoms do not ascend to the last row");
        }
        if (std::binary_search(plan_.positions.begin() + sequence_.row_begin,
                               plan_.positions.begin() + end_row(), position)) {
          return Broken("a row and a phantom have one position");
        }
        if (!HasHiddenRow(position, phantoms.cut_layer))
          return Broken("a phantom has no hidden row");
        before = position;
      }
    }
    return absl::OkStatus();
  }

  const StepPlan& plan_;
  const PlanSequence& sequence_;
  const LayoutContext& context_;
  int32_t reserved_ = 0;
  std::vector<int32_t> deep_;  // DeepHiddenIndices, once wanted
};

}  // namespace

absl::Status StepLayout::Check(const StepPlan& plan, const LayoutContext& context) {
  const size_t rows = plan.tokens.size();
  const auto is_draft = [](const PlanSequence& sequence) { return sequence.draft; };
  if (plan.put_off && !std::ranges::all_of(plan.sequences, is_draft)) {
    return absl::InternalError("step plan: what is put off is no draft");
  }
  if (plan.positions.size() != rows || plan.enter.size() != rows || plan.leave.size() != rows) {
    return absl::InternalError("step plan: arrays of different length");
  }
  int32_t next_row = 0;
  for (const PlanSequence& sequence : plan.sequences) {
    if (sequence.row_begin != next_row || sequence.row_count <= 0 ||
        sequence.row_count > plan.rows() - next_row) {
      return absl::InternalError(
          absl::StrCat("step plan: rows are not consecutive (sequence ", sequence.id, ")"));
    }
    next_row += sequence.row_count;
    SKIM_RETURN_IF_ERROR(SequenceCheck(plan, sequence, context).Run());
  }
  return next_row == plan.rows() ? absl::OkStatus()
                                 : absl::InternalError("step plan: rows without a sequence");
}

}  // namespace skim
