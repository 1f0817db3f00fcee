// What speculation saved one request, against decoding the same tokens one a step.
#pragma once

#include <cstdint>

#include "engine/engine.h"
#include "kernels/weight.h"
#include "scheduler/speculation.h"

namespace skim {

// Both are negative where drafts cost more than they saved.
struct SpeculationSaved {
  // A step passes over the weights of every layer once, whatever it verifies; a draft pass over
  // those of the layers it runs. The draft head and the draft model have none of them.
  int64_t layer_passes = 0;
  // Bytes of matrices, those of the LM head included, that those passes would have read; also those
  // that a draft model read to know the text. Adapters of exits are left out: one has the size of a
  // tenth of a layer or less.
  int64_t weight_bytes = 0;
};

// `weights`: of the request. As if it had been alone: others in its steps share what is read.
SpeculationSaved SavedBySpeculation(const SpeculationReport& report, WeightFormat weights,
                                    const ModelInfo& model);

}  // namespace skim
