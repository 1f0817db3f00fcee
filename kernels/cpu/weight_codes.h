// From one row of bf16 weights to the codes of a format, and from codes to their places in
// packed lines (packed_weight.h).
#pragma once

#include <cstdint>
#include <span>

#include "base/bf16.h"
#include "kernels/weight.h"

namespace skim {

// code = e4m3(w / scale), scale = max |w| / 448. Returns the scale, 1 for a row of zeros; a
// scale that is not finite if a weight is not.
float QuantizeFp8(std::span<const Bf16> row, uint8_t* codes);

// code = round(w / scale), scale = max |w| / 127, in two's complement. Returns as above.
float QuantizeInt8(std::span<const Bf16> row, uint8_t* codes);

// code + 8, code = round(w / scale) clamped to -8 .. 7, per group of kInt4Group. The scale is
// bf16; of the candidates that put the largest weight on the lowest code or a little beyond
// it, the one with the least squared error. False if a weight is not finite.
bool QuantizeInt4(std::span<const Bf16> row, uint8_t* codes, Bf16* scales);

// Put the codes of one row into column `column` of a block whose lines are `stride` bytes
// apart. `codes` as the functions above write them.
void PlaceBf16(std::span<const Bf16> row, int column, uint8_t* lines, int64_t stride);
void PlaceFp8(std::span<const uint8_t> codes, int column, uint8_t* lines, int64_t stride);
void PlaceInt8(std::span<const uint8_t> codes, int column, uint8_t* lines, int64_t stride);
void PlaceInt4(std::span<const uint8_t> codes, std::span<const Bf16> scales, int column,
               uint8_t* lines, int64_t stride);

}  // namespace skim
