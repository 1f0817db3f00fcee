// A StepPlan turned into what kernels follow: for every stretch of layers in which the set
// of rows is constant, which rows run and where their K/V lies. All index arrays are one
// host vector, uploaded once per part of the stack. Arrays that grow with the sequences have room
// to grow in, so that from a decode step to the next each array stays where it is.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "engine/segments.h"
#include "engine/step_plan.h"
#include "engine/weight_by_format.h"
#include "kernels/ops.h"

namespace skim {

// Offsets are into StepLayout::index.
struct LayerSpan {
  int32_t first_layer = 0;
  int32_t end_layer = 0;  // exclusive; inside one segment
  int32_t rows = 0;
  bool every_row = false;     // the span's rows are all rows of the step, in order
  size_t gather = 0;          // [rows] row of the step (unless every_row)
  size_t positions = 0;       // [rows]
  size_t slots = 0;           // [rows]
  size_t blocks = 0;          // [units][blocks_per_unit]
  size_t slot_positions = 0;  // of the sequences that are not in order
  int32_t blocks_per_unit = 0;  // some more than there are
  std::vector<SequenceRows> sequences;
  std::vector<FormatRows> formats;  // of the span's rows, all of them
  std::vector<int32_t> plan_sequences;  // index into the plan of each of them
};

// Phantoms of one cut whose K/V of some layers is to be predicted. Their slot is their position.
struct PhantomSpan {
  int32_t cut_layer = 0;
  int32_t first_layer = 0;
  int32_t end_layer = 0;  // exclusive; inside one segment
  int32_t rows = 0;
  size_t hidden_rows = 0;  // [rows] row of the HiddenStore
  size_t positions = 0;    // [rows]
  size_t blocks = 0;       // [units][blocks_per_unit]
  int32_t blocks_per_unit = 0;
  std::vector<SequenceRows> sequences;
};

// Rows that pass through the HiddenStore at one end of their interval.
struct HiddenTransfer {
  int32_t rows = 0;
  size_t step_rows = 0;    // [rows] row of the step
  size_t hidden_rows = 0;  // [rows] row of the HiddenStore (HiddenGeometry)
};

// The HiddenStore is the KV pool seen as rows that begin at every 64 bytes.
struct HiddenGeometry {
  static constexpr int32_t kGranuleFloats = 16;

  int32_t rows_per_page = 0;  // divides page_tokens
  int32_t granules_per_row = 0;
  int32_t granules_per_page = 0;

  // No rows fit if one is larger than a page, or the pool has more granules than an index. A
  // block of page_tokens takes whole pages, so that it can be shared.
  static HiddenGeometry Of(size_t page_bytes, int32_t pages, int32_t hidden_size,
                           int32_t page_tokens);
  // Of the row with this index in the sequence's pages.
  int32_t Row(std::span<const PageId> sequence_pages, int32_t index) const {
    return sequence_pages[index / rows_per_page] * granules_per_page +
           index % rows_per_page * granules_per_row;
  }
  // Whether the sequence's pages have a place for it.
  bool Keeps(std::span<const PageId> sequence_pages, int32_t index) const {
    if (rows_per_page == 0 || index < 0) return false;
    const auto page = static_cast<size_t>(index / rows_per_page);
    return page < sequence_pages.size() && sequence_pages[page] != kNoPage;
  }
};

// Where a pruned sequence's prompt tokens have, or get in this step, their rows in its deep
// hidden pages: [prompt tokens].
inline constexpr int32_t kNoHiddenRow = -1;
std::vector<int32_t> DeepHiddenIndices(const StepPlan& plan, const PlanSequence& sequence,
                                       const LayerSegments& segments);

// Which positions a sequence's rows see above the last cut; empty: all that have a slot.
using Visibility = std::vector<uint8_t>;  // [positions]

struct LayoutContext {
  const LayerSegments& segments;
  int32_t page_tokens = 0;
  HiddenGeometry hidden;
  int32_t feature_places = 0;
  int32_t max_rows = INT32_MAX;  // of a span of phantoms
};

struct StepLayout {
  std::vector<int32_t> index;
  int32_t first_layer = 0;
  int32_t end_layer = 0;
  int32_t rows = 0;   // of the step
  size_t tokens = 0;  // [step rows]
  std::vector<PhantomSpan> phantoms;  // of the whole step, in the part that begins at layer 0
  std::vector<LayerSpan> spans;
  HiddenTransfer enter;  // rows with 0 < enter, in [first_layer, end_layer)
  // Rows with leave < L, in (first_layer, end_layer]; of a draft pass, those that are kept, and no
  // scouts.
  HiddenTransfer leave;

  // INTERNAL if the plan contradicts itself or the geometry: a scheduler's mistake must not
  // write into pages of others.
  static absl::Status Check(const StepPlan& plan, const LayoutContext& context);
  // Lays out layers [first_layer, end_layer) of a plan that passes Check. `visible` is empty
  // or parallel to the plan's sequences.
  static StepLayout Build(const StepPlan& plan, const LayoutContext& context, int32_t first_layer,
                          int32_t end_layer, const std::vector<Visibility>& visible);
};

}  // namespace skim
