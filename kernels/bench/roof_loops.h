// Register-only loops per instruction set. Plain data, see kernels/CMakeLists.txt.
#pragma once

#include <cstdint>

namespace skim {

struct RoofLoop {
  double ops_per_iteration;
  // Returns something that depends on every operation, so that none is optimised away.
  int64_t (*run)(int64_t iterations);
};

extern const RoofLoop kBf16Plain, kBf16Avx2, kBf16Avx512, kBf16Amx;
extern const RoofLoop kInt8Plain, kInt8Avx2, kInt8Vnni, kInt8Amx;

}  // namespace skim
