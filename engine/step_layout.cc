#include "engine/step_layout.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"

namespace skim {
namespace {

absl::Status Broken(const char* what, SeqId id) {
  return absl::InternalError(absl::StrCat("step plan: ", what, " (sequence ", id, ")"));
}

absl::Status CheckPlan(const StepPlan& plan, const LayerSegments& segments, int32_t page_tokens) {
  const size_t rows = plan.tokens.size();
  if (plan.positions.size() != rows || plan.enter.size() != rows || plan.leave.size() != rows) {
    return Broken("arrays of different length", 0);
  }
  if (!plan.hidden_slots.empty() && plan.hidden_slots.size() != rows) {
    return Broken("hidden_slots of another length", 0);
  }
  int32_t next_row = 0;
  for (const PlanSequence& sequence : plan.sequences) {
    if (sequence.row_begin != next_row || sequence.row_count <= 0 ||
        sequence.row_count > plan.rows() - next_row) {
      return Broken("rows are not consecutive", sequence.id);
    }
    next_row += sequence.row_count;
    if (sequence.segment_pages.size() != segments.segments().size()) {
      return Broken("pages for another number of segments", sequence.id);
    }
    for (int32_t row = sequence.row_begin; row < next_row; ++row) {
      if (row > sequence.row_begin && plan.positions[row] <= plan.positions[row - 1]) {
        return Broken("positions do not ascend", sequence.id);
      }
      if (plan.enter[row] < 0 || plan.enter[row] >= plan.leave[row] ||
          plan.leave[row] > segments.layers()) {
        return Broken("a row's layers are no interval", sequence.id);
      }
      const bool transfers = plan.enter[row] > 0 || plan.leave[row] < segments.layers();
      if (transfers && plan.hidden_slots.empty()) {
        return Broken("a row has no hidden slot", sequence.id);
      }
    }
    const int64_t blocks = (plan.positions[next_row - 1] + int64_t{page_tokens}) / page_tokens;
    const std::vector<int32_t>& units = segments.units();
    for (size_t s = 0; s < units.size(); ++s) {
      if (static_cast<int64_t>(sequence.segment_pages[s].size()) < blocks * units[s]) {
        return Broken("too few KV pages", sequence.id);
      }
    }
  }
  return next_row == plan.rows() ? absl::OkStatus() : Broken("rows without a sequence", 0);
}

// Every layer at which the set of running rows or the page table may change.
std::vector<int32_t> Cuts(const StepPlan& plan, const LayerSegments& segments) {
  std::vector<int32_t> cuts = {0, segments.layers()};
  for (const Segment& segment : segments.segments()) cuts.push_back(segment.first_layer);
  cuts.insert(cuts.end(), plan.enter.begin(), plan.enter.end());
  cuts.insert(cuts.end(), plan.leave.begin(), plan.leave.end());
  std::sort(cuts.begin(), cuts.end());
  cuts.erase(std::unique(cuts.begin(), cuts.end()), cuts.end());
  return cuts;
}

class Builder {
 public:
  Builder(const StepPlan& plan, const LayerSegments& segments, int32_t page_tokens, StepLayout* out)
      : plan_(plan), segments_(segments), page_tokens_(page_tokens), out_(*out) {}

  void AddSpan(int32_t first_layer, int32_t end_layer) {
    LayerSpan span;
    span.first_layer = first_layer;
    span.end_layer = end_layer;
    std::vector<int32_t> rows;
    std::vector<const PlanSequence*> sequences;
    for (const PlanSequence& sequence : plan_.sequences) {
      SequenceRows run;
      run.row_begin = static_cast<int32_t>(rows.size());
      for (int32_t row = sequence.row_begin; row < sequence.row_begin + sequence.row_count; ++row) {
        if (plan_.enter[row] <= first_layer && plan_.leave[row] >= end_layer) rows.push_back(row);
      }
      run.row_count = static_cast<int32_t>(rows.size()) - run.row_begin;
      if (run.row_count == 0) continue;
      run.slots = plan_.positions[rows.back()] + 1;
      run.block_begin = span.blocks_per_unit;
      span.blocks_per_unit += Blocks(run.slots);
      span.sequences.push_back(run);
      AppendRows(sequence.weight_format, run.row_count, &span.formats);
      sequences.push_back(&sequence);
    }
    if (rows.empty()) return;
    span.rows = static_cast<int32_t>(rows.size());
    span.every_row = span.rows == plan_.rows();
    if (!span.every_row) span.gather = Append(rows);
    for (int32_t& row : rows) row = plan_.positions[row];
    span.positions = Append(rows);
    span.slots = span.positions;  // slot i of a full segment holds position i
    AppendBlocks(sequences, &span);
    out_.spans.push_back(std::move(span));
  }

  HiddenTransfer Transfer(bool entering) {
    std::vector<int32_t> rows, slots;
    for (int32_t row = 0; row < plan_.rows(); ++row) {
      if (entering ? plan_.enter[row] > 0 : plan_.leave[row] < segments_.layers()) {
        rows.push_back(row);
        slots.push_back(plan_.hidden_slots[row]);
      }
    }
    HiddenTransfer transfer;
    transfer.rows = static_cast<int32_t>(rows.size());
    transfer.step_rows = Append(rows);
    transfer.hidden_slots = Append(slots);
    return transfer;
  }

  size_t Append(const std::vector<int32_t>& values) {
    const size_t offset = out_.index.size();
    out_.index.insert(out_.index.end(), values.begin(), values.end());
    return offset;
  }

 private:
  int32_t Blocks(int32_t slots) const { return (slots + page_tokens_ - 1) / page_tokens_; }

  void AppendBlocks(const std::vector<const PlanSequence*>& sequences, LayerSpan* span) {
    const int32_t segment = segments_.SegmentOf(span->first_layer);
    const int32_t units = segments_.units()[segment];
    span->blocks = out_.index.size();
    for (int32_t unit = 0; unit < units; ++unit) {
      for (size_t i = 0; i < sequences.size(); ++i) {
        const auto pages = sequences[i]->segment_pages[segment];
        for (int32_t block = 0; block < Blocks(span->sequences[i].slots); ++block) {
          out_.index.push_back(pages[block * units + unit]);
        }
      }
    }
  }

  const StepPlan& plan_;
  const LayerSegments& segments_;
  const int32_t page_tokens_;
  StepLayout& out_;
};

}  // namespace

absl::Status StepLayout::Build(const StepPlan& plan, const LayerSegments& segments,
                               int32_t page_tokens, StepLayout* out) {
  SKIM_RETURN_IF_ERROR(CheckPlan(plan, segments, page_tokens));
  *out = StepLayout();
  Builder builder(plan, segments, page_tokens, out);
  out->rows = plan.rows();
  out->tokens = builder.Append(plan.tokens);
  const std::vector<int32_t> cuts = Cuts(plan, segments);
  for (size_t i = 0; i + 1 < cuts.size(); ++i) builder.AddSpan(cuts[i], cuts[i + 1]);
  out->enter = builder.Transfer(/*entering=*/true);
  out->leave = builder.Transfer(/*entering=*/false);
  return absl::OkStatus();
}

}  // namespace skim
