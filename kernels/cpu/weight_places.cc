#include "kernels/cpu/weight_places.h"

#include "kernels/cpu/packed_weight.h"

namespace skim {

void PlaceBf16(std::span<const Bf16> row, int column, uint8_t* lines, int64_t stride) {
  for (size_t k = 0; k < row.size(); ++k) {
    auto* line = reinterpret_cast<uint16_t*>(lines + k / 2 * stride);
    line[2 * column + k % 2] = row[k].bits;
  }
}

void PlaceFp8(std::span<const uint8_t> codes, int column, uint8_t* lines, int64_t stride) {
  for (size_t k = 0; k < codes.size(); ++k) {
    const size_t lane = 2 * column + k % 2, half = k / 2 % 2;
    lines[k / 4 * stride + lane / 8 * 16 + half * 8 + lane % 8] = codes[k];
  }
}

void PlaceInt8(std::span<const uint8_t> codes, int column, uint8_t* lines, int64_t stride) {
  for (size_t k = 0; k < codes.size(); ++k) {
    lines[k / 4 * stride + 4 * column + k % 4] = codes[k] ^ 0x80;
  }
}

void PlaceInt4(std::span<const uint8_t> codes, std::span<const Int4Group> groups, int column,
               uint8_t* lines, int64_t stride) {
  constexpr WeightStep kStep = StepOf(WeightFormat::kInt4);
  for (size_t g = 0; g < groups.size(); ++g) {
    uint8_t* step = lines + g / 2 * kStep.lines * stride;
    const size_t lane = g % 2 * 16 + column;
    reinterpret_cast<uint16_t*>(step)[lane] = groups[g].scale.bits;
    reinterpret_cast<uint16_t*>(step + stride)[lane] = groups[g].offset.bits;
  }
  for (size_t k = 0; k < codes.size(); ++k) {
    const size_t line = k / kStep.k * kStep.lines + 2 + k % kStep.k / 8;
    uint8_t& byte = lines[line * stride + 4 * column + k % 4];
    byte |= static_cast<uint8_t>(codes[k] << (k % 8 < 4 ? 0 : 4));
  }
}

}  // namespace skim
