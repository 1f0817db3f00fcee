// Epilogues in AVX-512, for its own and the AMX kernels.
#pragma once

#include "kernels/cpu/gemm_kernels.h"

namespace skim {

void StoreLinearAvx512(const StoreLinear& s);
void StoreSwiGluAvx512(const StoreSwiGlu& s);

}  // namespace skim
