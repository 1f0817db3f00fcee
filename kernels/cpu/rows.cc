#include "kernels/cpu/rows.h"

#include <algorithm>
#include <cstring>

#include "kernels/cpu/small_op.h"

namespace skim {

void CpuEmbed(ThreadPool& pool, const CpuPackedWeight& table, const TokenId* tokens,
              Matrix<float> y) {
  SplitUnlessSmall(pool, y.rows, y.cols, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) table.ReadRow(tokens[r], y.Row(r));
  });
}

void CpuGatherRows(ThreadPool& pool, Matrix<const float> x, const int32_t* index, Matrix<float> y) {
  SplitUnlessSmall(pool, y.rows, y.cols, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      std::memcpy(y.Row(r), x.Row(index[r]), y.cols * sizeof(float));
    }
  });
}

void CpuScatterRows(ThreadPool& pool, Matrix<const float> x, const int32_t* index,
                    Matrix<float> y) {
  SplitUnlessSmall(pool, x.rows, x.cols, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      std::memcpy(y.Row(index[r]), x.Row(r), x.cols * sizeof(float));
    }
  });
}

}  // namespace skim
