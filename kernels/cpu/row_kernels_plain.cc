#include "kernels/cpu/row_impl.h"
#include "kernels/cpu/vec_plain.h"

namespace skim {

extern const RowKernels kRowsPlain = RowImpl<VecPlain>::Kernels();

}  // namespace skim
