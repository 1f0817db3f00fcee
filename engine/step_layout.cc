#include "engine/step_layout.h"

#include <algorithm>
#include <bit>
#include <climits>
#include <utility>

namespace skim {
namespace {

// Rows of a sequence that run layers, all of which it skips or none, in ascending position.
std::vector<int32_t> ActiveRows(const StepPlan& plan, const PlanSequence& sequence,
                                int32_t first_layer, int32_t end_layer) {
  std::vector<int32_t> rows;
  if (std::ranges::binary_search(sequence.skipped, first_layer)) return rows;
  for (int32_t row = sequence.row_begin; row < sequence.row_begin + sequence.row_count; ++row) {
    if (plan.enter[row] <= first_layer && plan.leave[row] >= end_layer) rows.push_back(row);
  }
  const auto position = [&](int32_t row) { return plan.positions[row]; };
  if (!std::ranges::is_sorted(rows, {}, position)) std::ranges::sort(rows, {}, position);
  return rows;
}

void SortUnique(std::vector<int32_t>* values) {
  std::ranges::sort(*values);
  values->erase(std::unique(values->begin(), values->end()), values->end());
}

class Builder {
 public:
  Builder(const StepPlan& plan, const LayoutContext& context,
          const std::vector<Visibility>& visible, StepLayout* out)
      : plan_(plan), context_(context), visible_(visible), out_(*out) {}

  void AddSpan(int32_t first_layer, int32_t end_layer) {
    LayerSpan span;
    span.first_layer = first_layer;
    span.end_layer = end_layer;
    const int32_t segment = context_.segments.SegmentOf(first_layer);
    std::vector<int32_t> rows, slots, slot_positions;
    for (size_t i = 0; i < plan_.sequences.size(); ++i) {
      const PlanSequence& sequence = plan_.sequences[i];
      const std::vector<int32_t> active = ActiveRows(plan_, sequence, first_layer, end_layer);
      if (active.empty()) continue;
      SequenceRows run;
      run.row_begin = static_cast<int32_t>(rows.size());
      run.row_count = static_cast<int32_t>(active.size());
      run.block_begin = span.blocks_per_unit;
      rows.insert(rows.end(), active.begin(), active.end());
      AddSlots(i, segment, active, &run, &slots, &slot_positions);
      span.blocks_per_unit += Blocks(run.slots);
      span.sequences.push_back(run);
      AppendRows(sequence.weight_format, run.row_count, &span.formats);
      span.plan_sequences.push_back(static_cast<int32_t>(i));
    }
    if (rows.empty()) return;
    span.rows = static_cast<int32_t>(rows.size());
    span.every_row = span.rows == plan_.rows() && std::ranges::is_sorted(rows);
    if (!span.every_row) span.gather = Append(rows);
    for (int32_t& row : rows) row = plan_.positions[row];
    span.positions = Append(rows);
    span.slots = slots == rows ? span.positions : Append(slots);
    span.slot_positions = AppendGrowing(slot_positions);
    span.blocks_per_unit = Room(span.blocks_per_unit);
    span.blocks = AppendBlocks(segment, span.plan_sequences, span.sequences, span.blocks_per_unit);
    out_.spans.push_back(std::move(span));
  }

  // Stretch of layers after stretch, and in each cut after cut: products of one map stand together.
  void AddPhantoms() {
    std::vector<int32_t> cuts, stops = {context_.segments.layers()};
    for (const Segment& segment : context_.segments.segments()) {
      stops.push_back(segment.first_layer);
    }
    for (const PlanSequence& sequence : plan_.sequences) {
      for (const PlanPhantoms& phantoms : sequence.phantoms) {
        cuts.push_back(phantoms.cut_layer);
        stops.push_back(phantoms.end_layer);
      }
    }
    SortUnique(&cuts);
    SortUnique(&stops);
    for (size_t i = 0; i + 1 < stops.size(); ++i) {
      for (const int32_t cut : cuts) AddPhantoms(stops[i], stops[i + 1], cut);
    }
  }

  HiddenTransfer Transfer(bool entering) {
    std::vector<int32_t> rows, hidden;
    for (const PlanSequence& sequence : plan_.sequences) {
      std::vector<int32_t> deep;  // by position, made when wanted
      for (int32_t row = sequence.row_begin; row < sequence.row_begin + sequence.row_count; ++row) {
        const int32_t enter = plan_.enter[row], leave = plan_.leave[row];
        if (enter >= leave) continue;  // reserved, and nobody's
        if (!entering && sequence.scouts()) continue;
        const bool transfers =
            entering ? enter > 0 && enter >= out_.first_layer && enter < out_.end_layer
                     : leave < context_.segments.layers() && leave > out_.first_layer &&
                           leave <= out_.end_layer;
        if (!transfers) continue;
        const int32_t layer = entering ? enter : leave, position = plan_.positions[row];
        if (sequence.draft && !context_.hidden.Keeps(sequence.hidden_pages, position)) continue;
        rows.push_back(row);
        hidden.push_back(HiddenRow(sequence, layer, position, &deep));
      }
    }
    HiddenTransfer transfer;
    transfer.rows = static_cast<int32_t>(rows.size());
    transfer.step_rows = Append(rows);
    transfer.hidden_rows = Append(hidden);
    return transfer;
  }

  size_t Append(const std::vector<int32_t>& values) {
    const size_t offset = out_.index.size();
    out_.index.insert(out_.index.end(), values.begin(), values.end());
    return offset;
  }

 private:
  int32_t Blocks(int32_t slots) const {
    return (slots + context_.page_tokens - 1) / context_.page_tokens;
  }

  // Where the row of this position lies that stops at `layer`. `deep` is DeepHiddenIndices, or
  // empty until that is wanted.
  int32_t HiddenRow(const PlanSequence& sequence, int32_t layer, int32_t position,
                    std::vector<int32_t>* deep) const {
    if (context_.segments.SegmentOf(layer) <= sequence.cut_segment) {
      return context_.hidden.Row(sequence.hidden_pages, position);
    }
    if (deep->empty()) *deep = DeepHiddenIndices(plan_, sequence, context_.segments);
    return context_.hidden.Row(sequence.deep_hidden_pages, (*deep)[position]);
  }

  // Those of one cut in layers of one segment, in spans of at most max_rows.
  void AddPhantoms(int32_t first_layer, int32_t end_layer, int32_t cut) {
    PhantomSpan span;
    std::vector<int32_t> positions, hidden, sequences;
    const auto close = [&] {
      if (positions.empty()) return;
      span.cut_layer = cut;
      span.first_layer = first_layer;
      span.end_layer = end_layer;
      span.rows = static_cast<int32_t>(positions.size());
      span.positions = Append(positions);
      span.hidden_rows = Append(hidden);
      span.blocks = AppendBlocks(context_.segments.SegmentOf(first_layer), sequences,
                                 span.sequences, span.blocks_per_unit);
      out_.phantoms.push_back(std::exchange(span, {}));
      positions.clear();
      hidden.clear();
      sequences.clear();
    };
    for (size_t i = 0; i < plan_.sequences.size(); ++i) {
      const PlanSequence& sequence = plan_.sequences[i];
      std::vector<int32_t> deep;
      for (const PlanPhantoms& phantoms : sequence.phantoms) {
        const bool runs = phantoms.cut_layer == cut && phantoms.first_layer <= first_layer &&
                          end_layer <= phantoms.end_layer;
        if (!runs) continue;
        for (const int32_t position : phantoms.positions) {
          if (std::ssize(positions) == context_.max_rows) close();
          if (sequences.empty() || sequences.back() != static_cast<int32_t>(i)) {
            SequenceRows rows;
            rows.row_begin = static_cast<int32_t>(positions.size());
            rows.block_begin = span.blocks_per_unit;
            // As many as the sequence's rows will see: a slot behind those is nobody's yet.
            rows.slots = plan_.positions[sequence.row_begin + sequence.row_count - 1] + 1;
            span.blocks_per_unit += Blocks(rows.slots);
            span.sequences.push_back(rows);
            sequences.push_back(static_cast<int32_t>(i));
          }
          ++span.sequences.back().row_count;
          positions.push_back(position);
          hidden.push_back(HiddenRow(sequence, cut, position, &deep));
        }
      }
    }
    close();
  }

  // Slots of the rows, and what all slots of the sequence hold where that is not implied.
  void AddSlots(size_t index, int32_t segment, const std::vector<int32_t>& active,
                SequenceRows* run, std::vector<int32_t>* slots,
                std::vector<int32_t>* slot_positions) const {
    const PlanSequence& sequence = plan_.sequences[index];
    if (segment < sequence.dense_segments) {
      for (const int32_t row : active) slots->push_back(plan_.positions[row]);
      run->slots = slots->back() + 1;
      return;
    }
    const std::span<const int32_t> held = sequence.slot_positions[segment];
    run->positions_begin = static_cast<int64_t>(slot_positions->size());
    slot_positions->insert(slot_positions->end(), held.begin(), held.end());
    if (!visible_.empty() && !visible_[index].empty()) {
      for (auto at = slot_positions->end() - static_cast<std::ptrdiff_t>(held.size());
           at != slot_positions->end(); ++at) {
        if (visible_[index][*at] == 0) *at = INT32_MAX;
      }
    }
    run->slots = static_cast<int32_t>(held.size());
    for (const int32_t row : active) {
      slots->push_back(run->slots++);
      slot_positions->push_back(plan_.positions[row]);
    }
  }

  // What grows with every token, with room to grow in: what follows keeps its place for a while.
  size_t AppendGrowing(const std::vector<int32_t>& values) {
    const size_t offset = Append(values);
    out_.index.resize(offset + static_cast<size_t>(Room(std::ssize(values))));
    return offset;
  }
  // At most a quarter more than `count`, but for small ones.
  static int32_t Room(int64_t count) {
    constexpr int64_t kLeastUnit = 64;
    if (count == 0) return 0;
    const auto quarter = static_cast<int64_t>(std::bit_floor(static_cast<uint64_t>(count)) / 4);
    const int64_t unit = std::max(kLeastUnit, quarter);
    return static_cast<int32_t>((count + unit - 1) / unit * unit);
  }

  // [units][per_unit] pages of the segment, of the slots of `rows`; `sequences` are indices into
  // the plan.
  size_t AppendBlocks(int32_t segment, const std::vector<int32_t>& sequences,
                      const std::vector<SequenceRows>& rows, int32_t per_unit) {
    const int32_t units = context_.segments.units()[segment];
    const size_t offset = out_.index.size();
    for (int32_t unit = 0; unit < units; ++unit) {
      out_.index.resize(offset + static_cast<size_t>(unit) * static_cast<size_t>(per_unit));
      for (size_t i = 0; i < sequences.size(); ++i) {
        const auto pages = plan_.sequences[sequences[i]].segment_pages[segment];
        for (int32_t block = 0; block < Blocks(rows[i].slots); ++block) {
          out_.index.push_back(pages[block * units + unit]);
        }
      }
    }
    out_.index.resize(offset + static_cast<size_t>(units) * static_cast<size_t>(per_unit));
    return offset;
  }

  const StepPlan& plan_;
  const LayoutContext& context_;
  const std::vector<Visibility>& visible_;
  StepLayout& out_;
};

}  // namespace

std::vector<int32_t> DeepHiddenIndices(const StepPlan& plan, const PlanSequence& sequence,
                                       const LayerSegments& segments) {
  std::vector<int32_t> indices(static_cast<size_t>(sequence.prompt_tokens), kNoHiddenRow);
  int32_t next = 0;
  const auto add = [&](int32_t position) {
    if (position < sequence.prompt_tokens) indices[position] = next++;
  };
  for (const int32_t position : sequence.slot_positions[sequence.cut_segment]) add(position);
  const Segment& segment = segments.segments()[sequence.cut_segment];
  for (const int32_t row :
       ActiveRows(plan, sequence, segment.first_layer, segment.first_layer + segment.layers)) {
    add(plan.positions[row]);
  }
  return indices;
}

HiddenGeometry HiddenGeometry::Of(size_t page_bytes, int32_t pages, int32_t hidden_size,
                                  int32_t page_tokens) {
  constexpr size_t kGranuleBytes = kGranuleFloats * sizeof(float);
  HiddenGeometry geometry;
  geometry.granules_per_row = (hidden_size + kGranuleFloats - 1) / kGranuleFloats;
  geometry.granules_per_page = static_cast<int32_t>(page_bytes / kGranuleBytes);
  const int64_t granules = int64_t{pages} * geometry.granules_per_page;
  if (page_bytes % kGranuleBytes == 0 && granules <= INT32_MAX) {
    const int32_t fit = geometry.granules_per_page / geometry.granules_per_row;
    geometry.rows_per_page = std::min(fit, page_tokens);
    while (geometry.rows_per_page > 0 && page_tokens % geometry.rows_per_page != 0) {
      --geometry.rows_per_page;
    }
  }
  return geometry;
}

StepLayout StepLayout::Build(const StepPlan& plan, const LayoutContext& context,
                             int32_t first_layer, int32_t end_layer,
                             const std::vector<Visibility>& visible) {
  StepLayout layout;
  layout.first_layer = first_layer;
  layout.end_layer = end_layer;
  layout.rows = plan.rows();
  Builder builder(plan, context, visible, &layout);
  layout.tokens = builder.Append(plan.tokens);
  if (first_layer == 0) builder.AddPhantoms();
  // Every layer at which the set of running rows or the page table may change.
  std::vector<int32_t> cuts = {first_layer, end_layer};
  for (const Segment& segment : context.segments.segments()) cuts.push_back(segment.first_layer);
  cuts.insert(cuts.end(), plan.enter.begin(), plan.enter.end());
  cuts.insert(cuts.end(), plan.leave.begin(), plan.leave.end());
  for (const PlanSequence& sequence : plan.sequences) {
    for (const int32_t layer : sequence.skipped) cuts.insert(cuts.end(), {layer, layer + 1});
  }
  std::erase_if(cuts, [&](int32_t cut) { return cut < first_layer || cut > end_layer; });
  SortUnique(&cuts);
  for (size_t i = 0; i + 1 < cuts.size(); ++i) builder.AddSpan(cuts[i], cuts[i + 1]);
  layout.enter = builder.Transfer(/*entering=*/true);
  layout.leave = builder.Transfer(/*entering=*/false);
  return layout;
}

}  // namespace skim
