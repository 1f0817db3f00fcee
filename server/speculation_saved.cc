#include "server/speculation_saved.h"

#include <algorithm>

#include "base/check.h"

namespace skim {
namespace {

int64_t Bytes(WeightFormat format, int64_t layers, int64_t heads, const ModelInfo& model) {
  const auto found = std::ranges::find(model.weights, format, &FormatInfo::format);
  SKIM_CHECK(found != model.weights.end());
  return layers * static_cast<int64_t>(found->layer_bytes) +
         heads * static_cast<int64_t>(found->head_bytes);
}

}  // namespace

SpeculationSaved SavedBySpeculation(const SpeculationReport& report, WeightFormat weights,
                                    const ModelInfo& model) {
  const DraftCounts total = report.total();
  const int64_t steps = int64_t{total.tokens} - total.rounds;
  SpeculationSaved saved;
  saved.layer_passes = steps * model.layers - total.layers;
  saved.weight_bytes = Bytes(weights, steps * model.layers, steps, model);
  for (size_t source = 0; source < kDraftSources; ++source) {
    const DraftCounts& counts = report.by_source[source];
    const int64_t passes = int64_t{counts.passes} + counts.catch_ups;
    if (passes == 0) continue;
    if (IsSelf(source)) {
      saved.weight_bytes -= Bytes(FormatOfSelf(source), counts.layers, passes, model);
      continue;
    }
    const uint64_t bytes =
        source == kHeadSource ? model.draft_head_bytes : model.draft_model_step_bytes;
    saved.weight_bytes -= passes * static_cast<int64_t>(bytes);
  }
  return saved;
}

}  // namespace skim
