#include "kernels/cpu/attention_impl.h"
#include "kernels/cpu/vec_avx2.h"

namespace skim {

extern const AttentionKernels kAttentionAvx2 = MakeAttentionKernels<VecAvx2>();

}  // namespace skim
