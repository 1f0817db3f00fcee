#include "kernels/cpu/row_impl.h"
#include "kernels/cpu/vec_avx2.h"

namespace skim {

extern const RowKernels kRowsAvx2 = RowImpl<VecAvx2>::Kernels();

}  // namespace skim
