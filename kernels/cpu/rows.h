// Row movement: embedding lookup, gather, scatter.
#pragma once

#include "base/types.h"
#include "kernels/cpu/packed_weight.h"
#include "kernels/cpu/thread_pool.h"
#include "kernels/matrix.h"

namespace skim {

// y[r] = table[tokens[r]]
void CpuEmbed(ThreadPool& pool, const CpuPackedWeight& table, const TokenId* tokens,
              Matrix<float> y);
// y[i] = x[index[i]] for every row of y
void CpuGatherRows(ThreadPool& pool, Matrix<const float> x, const int32_t* index, Matrix<float> y);
// y[index[i]] = x[i] for every row of x; no index twice
void CpuScatterRows(ThreadPool& pool, Matrix<const float> x, const int32_t* index, Matrix<float> y);

}  // namespace skim
