#include "kernels/cpu/row_kernels.h"

#include "base/check.h"

namespace skim {

const RowKernels& RowKernelsOf(Isa isa) {
  switch (isa) {
    case Isa::kPlain:
      return kRowsPlain;
    case Isa::kAvx2:
      return kRowsAvx2;
    case Isa::kAvx512:
    case Isa::kAmx:
      return kRowsAvx512;
  }
  SKIM_CHECK(false);
}

}  // namespace skim
