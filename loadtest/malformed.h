// Requests that a correct server must refuse, one for each way to be wrong.
#pragma once

#include <cstddef>
#include <cstdint>

#include "skim/v1/inference.pb.h"

namespace skim {

size_t MalformedKinds();

// Breaks `request`, which must be a valid one with token ids. `kind` < MalformedKinds();
// `vocabulary` and `max_context` as in GetModel.
void BreakRequest(size_t kind, uint32_t vocabulary, uint32_t max_context,
                  v1::GenerateRequest* request);

}  // namespace skim
