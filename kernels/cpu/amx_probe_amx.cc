#include "kernels/cpu/amx_probe.h"

#include <immintrin.h>

#include <cstdint>

namespace skim {

void AmxProbe() {
  struct alignas(64) {
    uint8_t palette = 1;
    uint8_t start_row = 0;
    uint8_t reserved[14] = {};
    uint16_t bytes_per_row[16] = {64, 64, 64};
    uint8_t rows[16] = {16, 16, 16};
  } config;
  _tile_loadconfig(&config);
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_dpbf16ps(0, 1, 2);
  _tile_release();
}

}  // namespace skim
