#include "kernels/bench/roof_loops.h"
#include "kernels/cpu/amx_tile.h"

namespace skim {
namespace {

constexpr int kSums = 4;

void ConfigureAll() {
  AmxConfig config;
  for (int t = 0; t < kAmxTiles; ++t) {
    config.rows[t] = kAmxTileRows;
    config.row_bytes[t] = kAmxRowBytes;
  }
  AmxTiles::Configure(config);
}

int64_t Bf16(int64_t iterations) {
  ConfigureAll();
  for (int64_t i = 0; i < iterations; ++i) {
    AmxTiles::DotBf16<0, 4, 6>();
    AmxTiles::DotBf16<1, 4, 7>();
    AmxTiles::DotBf16<2, 5, 6>();
    AmxTiles::DotBf16<3, 5, 7>();
  }
  AmxTiles::Release();
  return iterations;
}

int64_t Int8(int64_t iterations) {
  ConfigureAll();
  for (int64_t i = 0; i < iterations; ++i) {
    __asm__ volatile(
        "tdpbssd %tmm6, %tmm4, %tmm0\n\t"
        "tdpbssd %tmm7, %tmm4, %tmm1\n\t"
        "tdpbssd %tmm6, %tmm5, %tmm2\n\t"
        "tdpbssd %tmm7, %tmm5, %tmm3");
  }
  AmxTiles::Release();
  return iterations;
}

}  // namespace

const RoofLoop kBf16Amx = {2.0 * 16 * 16 * 32 * kSums, Bf16};
const RoofLoop kInt8Amx = {2.0 * 16 * 16 * 64 * kSums, Int8};

}  // namespace skim
