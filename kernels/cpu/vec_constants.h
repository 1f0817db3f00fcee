// What the vector types of vec_*.h have in common.
#pragma once

#include "kernels/cpu/simd_exp.h"

namespace skim {
namespace {

// (ln 2)^i / i!
constexpr float kExp2Terms[6] = {1.0f,          0.693147181f,   0.240226507f,
                                 0.0555041087f, 0.00961812911f, 0.00133335581f};
constexpr float kExp2Lowest = -151.0f;  // rounds to 0

}  // namespace
}  // namespace skim
