#include "kernels/cpu/row_impl.h"
#include "kernels/cpu/vec_avx512.h"

namespace skim {

extern const RowKernels kRowsAvx512 = RowImpl<VecAvx512>::Kernels();

}  // namespace skim
