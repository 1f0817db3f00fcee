// Sampling of rows of logits; kernels/sampling.h says what is computed.
#pragma once

#include <span>

#include "kernels/cpu/isa.h"
#include "kernels/cpu/sample_distribution.h"
#include "kernels/cpu/thread_pool.h"
#include "kernels/sampling.h"

namespace skim {

// One result per row of args.rows, from the same row of the logits. Rows are shared out over the
// threads; none depends on another.
void CpuSample(ThreadPool& pool, Isa isa, SampleScratch& scratch, const SampleArgs& args,
               std::span<SampledToken> results);

}  // namespace skim
