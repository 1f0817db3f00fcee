// bf16 and fp16 as bits.
#pragma once

#include <cstdint>

#include "tests/ptxsim/module.h"

namespace ptxsim {

float Bf16ToFloat(uint16_t bits);
uint16_t FloatToBf16(float x, Rounding rounding);  // to nearest even or to zero
uint16_t DoubleToBf16(double x);                   // rounded once, to nearest
float HalfToFloat(uint16_t bits);
uint16_t FloatToHalf(float x);  // to nearest even

}  // namespace ptxsim
