#include "kernels/cpu/attention_impl.h"
#include "kernels/cpu/vec_plain.h"

namespace skim {

extern const AttentionKernels kAttentionPlain = MakeAttentionKernels<VecPlain>();

}  // namespace skim
