#include "kernels/cpu/amx_probe.h"
#include "kernels/cpu/amx_tile.h"

namespace skim {

void AmxProbe() {
  AmxConfig config;
  for (int t = 0; t < kAmxTiles; ++t) {
    config.rows[t] = kAmxTileRows;
    config.row_bytes[t] = kAmxRowBytes;
  }
  AmxTiles::Configure(config);
  AmxTiles::Zero<0>();
  AmxTiles::Zero<1>();
  AmxTiles::Zero<2>();
  AmxTiles::DotBf16<0, 1, 2>();
  AmxTiles::Release();
}

}  // namespace skim
