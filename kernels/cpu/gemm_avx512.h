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

[[maybe_unused]] constexpr FormatKernels FormatAvx512(void (*tile)(const GemmTile&),
                                                      int prefetch_from_rows = kAvx512TileRows) {
  return {.max_rows = kAvx512TileRows,
          .even_tiles = true,
          .prefetch_from_rows = prefetch_from_rows,
          .tile = tile};
}

// A line of int4 holds twice the products of other formats, so the processor itself looks only
// half as far ahead: lines are always prefetched by instruction, and early.
[[maybe_unused]] constexpr FormatKernels Int4FormatAvx512() {
  FormatKernels format = FormatAvx512(TileInt4Avx512, /*prefetch_from_rows=*/1);
  format.chunk_lines = 128;
  format.prefetch_early = 2;
  return format;
}

}  // namespace
}  // namespace skim
