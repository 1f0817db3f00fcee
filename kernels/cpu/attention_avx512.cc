#include "kernels/cpu/attention_impl.h"
#include "kernels/cpu/vec_avx512.h"

namespace skim {

extern const AttentionKernels kAttentionAvx512 = MakeAttentionKernels<VecAvx512>();

}  // namespace skim
