// RMS norm of rows (Zhang & Sennrich, 2019).
#pragma once

#include "kernels/cpu/isa.h"
#include "kernels/cpu/thread_pool.h"
#include "kernels/matrix.h"

namespace skim {

// y = x / sqrt(mean(x^2) + eps) * weight, summed in fp32 in an order that depends on the
// number of columns only.
void CpuRmsNorm(ThreadPool& pool, Isa isa, Matrix<const float> x, const float* weight, float eps,
                Matrix<Bf16> y);

}  // namespace skim
