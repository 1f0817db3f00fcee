// Single rows: embedding lookup, gather, scatter, products with rows that an index names.
#pragma once

#include "base/types.h"
#include "kernels/cpu/packed_weight.h"
#include "kernels/cpu/thread_pool.h"
#include "kernels/matrix.h"

namespace skim {

// y[r] = table[tokens[r]], or of a pending token's draw
void CpuEmbed(ThreadPool& pool, const CpuPackedWeight& table, const TokenId* tokens,
              const TokenId* drawn, Matrix<float> y);
// y[r][c] = x[r] . table[index[r * y.cols + c]] + bias, -inf where the index is negative. Products
// are summed in 16 interleaved fp32 sums, which every instruction set adds up alike.
void CpuLinearAt(ThreadPool& pool, Matrix<const Bf16> x, const CpuPackedWeight& table,
                 const int32_t* index, float bias, Matrix<float> y);
// y[i] = x[index[i]] for every row of y
void CpuGatherRows(ThreadPool& pool, Matrix<const float> x, const int32_t* index, Matrix<float> y);
// y[index[i]] = x[i] for every row of x; no index twice
void CpuScatterRows(ThreadPool& pool, Matrix<const float> x, const int32_t* index, Matrix<float> y);

}  // namespace skim
