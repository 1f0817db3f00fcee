// From the codes of one row of weights to their places in packed lines (packed_weight.h).
#pragma once

#include <cstdint>
#include <span>

#include "base/bf16.h"
#include "kernels/weight_codes.h"

namespace skim {

// Put the codes of one row into column `column` of a block whose lines are `stride` bytes
// apart. `codes` as the functions above write them.
void PlaceBf16(std::span<const Bf16> row, int column, uint8_t* lines, int64_t stride);
void PlaceFp8(std::span<const uint8_t> codes, int column, uint8_t* lines, int64_t stride);
void PlaceInt8(std::span<const uint8_t> codes, int column, uint8_t* lines, int64_t stride);
void PlaceInt4(std::span<const uint8_t> codes, std::span<const Int4Group> groups, int column,
               uint8_t* lines, int64_t stride);

}  // namespace skim
