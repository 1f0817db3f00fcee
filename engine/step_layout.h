// A StepPlan turned into what kernels follow: for every stretch of layers in which the set
// of rows is constant, which rows run and where their K/V lies. All index arrays are one
// host vector, uploaded once per step.
#pragma once

#include <cstdint>
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
  bool every_row = false;  // the span's rows are all rows of the step, in order
  size_t gather = 0;       // [rows] row of the step (unless every_row)
  size_t positions = 0;    // [rows]
  size_t slots = 0;        // [rows]
  size_t blocks = 0;       // [units][blocks_per_unit]
  int32_t blocks_per_unit = 0;
  std::vector<SequenceRows> sequences;
  std::vector<FormatRows> formats;  // of the span's rows, all of them
};

// Rows that pass through the HiddenStore at one end of their interval.
struct HiddenTransfer {
  int32_t rows = 0;
  size_t step_rows = 0;     // [rows] row of the step
  size_t hidden_slots = 0;  // [rows] slot of the HiddenStore
};

struct StepLayout {
  std::vector<int32_t> index;
  int32_t rows = 0;   // of the step
  size_t tokens = 0;  // [step rows]
  std::vector<LayerSpan> spans;
  HiddenTransfer enter;  // rows with enter > 0
  HiddenTransfer leave;  // rows with leave < L

  // INTERNAL if the plan contradicts itself or the geometry: a scheduler's mistake must not
  // write into pages of others.
  static absl::Status Build(const StepPlan& plan, const LayerSegments& segments,
                            int32_t page_tokens, StepLayout* out);
};

}  // namespace skim
