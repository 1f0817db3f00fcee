#include "kernels/cpu/rows.h"

#include <algorithm>
#include <cstring>
#include <limits>
#include <vector>

#include "kernels/cpu/small_op.h"

namespace skim {
namespace {

float Dot(const Bf16* x, const float* w, int64_t n) {
  constexpr int kSums = 16;
  float sums[kSums] = {};
  int64_t k = 0;
  for (; k + kSums <= n; k += kSums) {
    for (int s = 0; s < kSums; ++s) sums[s] += ToFloat(x[k + s]) * w[k + s];
  }
  for (int s = 0; k < n; ++k, ++s) sums[s] += ToFloat(x[k]) * w[k];
  float total = 0;
  for (const float sum : sums) total += sum;
  return total;
}

}  // namespace

void CpuEmbed(ThreadPool& pool, const CpuPackedWeight& table, const TokenId* tokens,
              const TokenId* drawn, Matrix<float> y) {
  SplitUnlessSmall(pool, y.rows, y.cols, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      const TokenId token = IsPending(tokens[r]) ? drawn[PendingDraw(tokens[r])] : tokens[r];
      table.ReadRow(std::max(token, 0), y.Row(r));
    }
  });
}

void CpuLinearAt(ThreadPool& pool, Matrix<const Bf16> x, const CpuPackedWeight& table,
                 const int32_t* index, float bias, Matrix<float> y) {
  const int64_t elements = y.rows * y.cols;
  // In turns: where the index is negative there is nothing to do, and that comes in stretches.
  const auto every = [&](int64_t first, int64_t stride) {
    std::vector<float> row(static_cast<size_t>(x.cols));
    for (int64_t i = first; i < elements; i += stride) {
      float* const out = y.Row(i / y.cols) + i % y.cols;
      if (index[i] < 0) {
        *out = -std::numeric_limits<float>::infinity();
        continue;
      }
      table.ReadRow(index[i], row.data());
      *out = Dot(x.Row(i / y.cols), row.data(), x.cols) + bias;
    }
  };
  if (elements * x.cols <= kSmallOpElements) {
    every(0, 1);
  } else {
    pool.Run([&](int thread) { every(thread, pool.threads()); });
  }
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
