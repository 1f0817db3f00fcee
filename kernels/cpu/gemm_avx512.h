// What the AVX-512 and the AMX kernels share.
#pragma once

#include "kernels/cpu/gemm_kernels.h"

namespace skim {

void ScaleAvx512(const ScaleTile& s);
void StoreLinearAvx512(const StoreLinear& s);
void StoreSwiGluAvx512(const StoreSwiGlu& s);
void QuantizeRowAvx512(const QuantizeRow& q);
void QuantizeGroupsAvx512(const QuantizeGroups& q);
void ExpandFp8Avx512(const ExpandLines& e);

// Also with AMX: a group of int4 weights is too short for its tiles.
void TileInt4Avx512(const GemmTile& t);

inline constexpr int kAvx512TileRows = 6;

namespace {

[[maybe_unused]] constexpr FormatKernels FormatAvx512(void (*tile)(const GemmTile&)) {
  return {.max_rows = kAvx512TileRows,
          .even_tiles = true,
          .prefetch_from_rows = kAvx512TileRows,
          .tile = tile,
          .expand = nullptr};
}

}  // namespace
}  // namespace skim
