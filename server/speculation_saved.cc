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
    if (counts.passes == 0) continue;
    saved.weight_bytes -=
        IsSelf(source) ? Bytes(FormatOfSelf(source), counts.layers, counts.passes, model)
                       : counts.passes * static_cast<int64_t>(model.draft_head_bytes);
  }
  return saved;
}

}  // namespace skim
