// Sampling of rows of logits; kernels/sampling.h says what is computed.
#pragma once

#include <span>

#include "kernels/cpu/isa.h"
#include "kernels/cpu/sample_distribution.h"
#include "kernels/cpu/thread_pool.h"
#include "kernels/matrix.h"
#include "kernels/sampling.h"

namespace skim {

// One result per row of `rows`, from the same row of `logits`. Rows are shared out over the
// threads; none depends on another.
void CpuSample(ThreadPool& pool, Isa isa, SampleScratch& scratch, Matrix<const float> logits,
               std::span<const SampleRow> rows, std::span<SampledToken> results);

}  // namespace skim
