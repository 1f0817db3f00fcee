// The reference: portable C++, in the order gemm_kernels.h states.
#include <algorithm>
#include <cstring>

#include "base/bf16.h"
#include "kernels/cpu/gemm_kernels.h"
#include "kernels/cpu/simd_exp.h"

namespace skim {
namespace {

void Tile(const GemmTile& t) {
  for (int r = 0; r < t.rows; ++r) {
    for (int b = 0; b < t.width; ++b) {
      float* out = t.acc + r * kTileColumns + b * 16;
      float acc[16] = {};
      if (!t.from_zero) std::memcpy(acc, out, sizeof acc);
      const uint16_t* x = t.x + r * t.x_stride;
      const uint16_t* line = t.w + b * 32;
      for (int64_t p = 0; p < t.pairs; ++p, x += 2, line += t.w_stride) {
        const float x0 = ToFloat(Bf16{x[0]}), x1 = ToFloat(Bf16{x[1]});
        for (int c = 0; c < 16; ++c) {
          acc[c] += x0 * ToFloat(Bf16{line[2 * c]});
          acc[c] += x1 * ToFloat(Bf16{line[2 * c + 1]});
        }
      }
      std::memcpy(out, acc, sizeof acc);
    }
  }
}

void Linear(const StoreLinear& s) {
  for (int r = 0; r < s.rows; ++r) {
    float* y = s.y + r * s.y_stride;
    for (int64_t c = 0; c < s.columns; ++c) {
      float v = s.acc[r * kTileColumns + c];
      if (s.bias != nullptr) v += s.bias[c];
      y[c] = s.accumulate ? y[c] + v : v;
    }
  }
}

void SwiGlu(const StoreSwiGlu& s) {
  for (int r = 0; r < s.rows; ++r) {
    for (int64_t c = 0; c < s.columns; ++c) {
      const float* acc = s.acc + r * kTileColumns + c / 16 * 32 + c % 16;
      float gate = acc[0], up = acc[16];
      if (s.gate_bias != nullptr) {
        gate += s.gate_bias[c];
        up += s.up_bias[c];
      }
      s.y[r * s.y_stride + c] = ToBf16(gate / (1.0f + ExpPlain(-gate)) * up).bits;
    }
  }
}

void Finish() {}

}  // namespace

const GemmKernels kGemmPlain = {.max_rows = 4,
                                .even_tiles = false,
                                .prefetch_from_rows = 1 << 30,
                                .tile = Tile,
                                .store_linear = Linear,
                                .store_swiglu = SwiGlu,
                                .finish = Finish};

}  // namespace skim
