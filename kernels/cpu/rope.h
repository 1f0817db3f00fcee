// Rotary embedding (Su et al., RoFormer; the half-against-half pairing of Llama) and the
// write of K and V into their pages.
#pragma once

#include "kernels/cpu/isa.h"
#include "kernels/cpu/thread_pool.h"
#include "kernels/ops.h"

namespace skim {

// Dimension i < rotary_dim / 2 turns against i + rotary_dim / 2; dimensions from rotary_dim
// on pass through. Two rows must not name the same slot of one sequence.
void CpuRopeAndWriteKv(ThreadPool& pool, Isa isa, const RopeWriteArgs& args,
                       const AttentionRows& rows, const KvLayer& kv);

}  // namespace skim
