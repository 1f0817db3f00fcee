// Scores of cached keys and the choice of the best: what token pruning is made of.
#pragma once

#include <cstdint>
#include <vector>

#include "kernels/cpu/attention.h"
#include "kernels/cpu/isa.h"
#include "kernels/cpu/thread_pool.h"
#include "kernels/ops.h"

namespace skim {

// Working memory, owned by whoever owns the pool; grows to the largest call.
struct TokenChoiceScratch {
  std::vector<float> by_position;
  std::vector<uint64_t> keys;
};

// A slot's score is summed over KV heads, rows and heads in this order by one thread.
void CpuKeyScores(ThreadPool& pool, Isa isa, AttentionScratch& scratch, const KeyScoresArgs& args,
                  const AttentionRows& rows, const KvLayer& kv);
void CpuPoolScores(TokenChoiceScratch& scratch, const PoolScoresArgs& args);
void CpuTopRows(TokenChoiceScratch& scratch, const TopRowsArgs& args);

}  // namespace skim
