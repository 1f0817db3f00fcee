// From one row of bf16 weights to the codes of a format (weight.h), for every backend.
#pragma once

#include <cstdint>
#include <span>

#include "base/bf16.h"
#include "kernels/weight.h"

namespace skim {

// code = e4m3(w / scale). Of eight scales between max |w| / 448 and its double, the one with
// the least squared error. Returns it, 1 for a row of zeros; what is returned is not finite if
// a weight is not.
float QuantizeFp8(std::span<const Bf16> row, uint8_t* codes);

// The row is padded with zeros to `padded` (a multiple of kRotation) and rotated to w'; code =
// round(w' / scale), scale = max |w'| / 127, in two's complement. Returns as above.
float QuantizeInt8(std::span<const Bf16> row, int64_t padded, uint8_t* codes);

// code = round((w - offset) / scale), clamped to 0 .. 15, per group of kInt4Group; scale and
// offset are bf16. Of the ranges that end at the extreme weights or a little inside, the one
// with the least squared error. False if a weight is not finite.
struct Int4Group {
  Bf16 scale, offset;
};
bool QuantizeInt4(std::span<const Bf16> row, uint8_t* codes, Int4Group* groups);

}  // namespace skim
