#include "kernels/cpu/norm.h"

#include "kernels/cpu/row_kernels.h"
#include "kernels/cpu/small_op.h"

namespace skim {

void CpuRmsNorm(ThreadPool& pool, Isa isa, Matrix<const float> x, const float* weight, float eps,
                Matrix<Bf16> y) {
  const RowKernels& kernels = RowKernelsOf(isa);
  SplitUnlessSmall(pool, y.rows, y.cols, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      kernels.rms_norm(x.Row(r), weight, eps, y.cols, y.Row(r));
    }
  });
}

}  // namespace skim
