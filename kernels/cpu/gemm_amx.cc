#include "kernels/cpu/gemm_amx.h"

#include "kernels/cpu/gemm_avx512.h"

namespace skim {
namespace {

template <AmxProduct kProduct>
void Tile(const GemmTile& t) {
  AmxTiles tiles;
  AmxTileKernel<AmxTiles, kProduct>(tiles, t).Run();
}

constexpr FormatKernels Format(void (*tile)(const GemmTile&), void (*expand)(const ExpandLines&) = nullptr) {
  return {.max_rows = kMaxTileRows,
          .even_tiles = false,
          .prefetch_from_rows = kAmxTileRows + 1,
          .tile = expand == nullptr ? tile : nullptr,
          .expand = expand,
          .expand_from_rows = 1,
          .expanded_tile = tile};
}

// Idle tile state makes every context switch of the thread dearer.
void Finish() { AmxTiles::Release(); }

}  // namespace

const GemmKernels kGemmAmx = {
    .formats = {Format(Tile<AmxProduct::kBf16>),
                Format(Tile<AmxProduct::kBf16>, ExpandFp8Avx512),
                Format(Tile<AmxProduct::kInt8>), Int4FormatAvx512()},
    .scale = ScaleAvx512,
    .store_linear = StoreLinearAvx512,
    .store_swiglu = StoreSwiGluAvx512,
    .quantize_row = QuantizeRowAvx512,
    .quantize_groups = QuantizeGroupsAvx512,
    .finish = Finish};

}  // namespace skim
