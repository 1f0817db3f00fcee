#include "kernels/cpu/gemm_amx.h"

#include "kernels/cpu/gemm_store.h"

namespace skim {
namespace {

void Tile(const GemmTile& t) {
  AmxTiles tiles;
  AmxTileKernel<AmxTiles>(tiles, t).Run();
}

// Idle tile state makes every context switch of the thread dearer.
void Finish() { AmxTiles::Release(); }

}  // namespace

const GemmKernels kGemmAmx = {.max_rows = kMaxTileRows,
                              .even_tiles = false,
                              .prefetch_from_rows = kAmxTileRows + 1,
                              .tile = Tile,
                              .store_linear = StoreLinearAvx512,
                              .store_swiglu = StoreSwiGluAvx512,
                              .finish = Finish};

}  // namespace skim
