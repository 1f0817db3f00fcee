// The reference: portable C++, in the order gemm_kernels.h states.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "base/bf16.h"
#include "base/fp8.h"
#include "kernels/cpu/gemm_kernels.h"
#include "kernels/cpu/simd_exp.h"
#include "kernels/hadamard.h"

namespace skim {
namespace {

// Calls visit(row, block, acc[16]) with the accumulators in their own type.
template <typename Sum, typename Visit>
void ForBlocks(const GemmTile& t, const Visit& visit) {
  for (int r = 0; r < t.rows; ++r) {
    for (int b = 0; b < t.width; ++b) {
      float* out = t.acc + r * kTileColumns + b * 16;
      Sum acc[16] = {};
      if (!t.from_zero) std::memcpy(acc, out, sizeof acc);
      visit(r, t.w + b * 64, acc);
      std::memcpy(out, acc, sizeof acc);
    }
  }
}

void TileBf16(const GemmTile& t) {
  ForBlocks<float>(t, [&](int r, const uint8_t* line, float* acc) {
    const auto* x = static_cast<const uint16_t*>(t.x) + r * t.x_stride;
    for (int64_t l = 0; l < t.lines; ++l, x += 2, line += t.w_stride) {
      const auto* w = reinterpret_cast<const uint16_t*>(line);
      const float x0 = ToFloat(Bf16{x[0]}), x1 = ToFloat(Bf16{x[1]});
      for (int c = 0; c < 16; ++c) {
        acc[c] += x0 * ToFloat(Bf16{w[2 * c]});
        acc[c] += x1 * ToFloat(Bf16{w[2 * c + 1]});
      }
    }
  });
}

void TileFp8(const GemmTile& t) {
  ForBlocks<float>(t, [&](int r, const uint8_t* line, float* acc) {
    const auto* x = static_cast<const uint16_t*>(t.x) + r * t.x_stride;
    for (int64_t l = 0; l < t.lines; ++l, line += t.w_stride) {
      for (int half = 0; half < 2; ++half, x += 2) {
        const float x0 = ToFloat(Bf16{x[0]}), x1 = ToFloat(Bf16{x[1]});
        for (int c = 0; c < 16; ++c) {
          const uint8_t* w = line + c / 4 * 16 + half * 8 + c % 4 * 2;
          acc[c] += x0 * ToFloat(Fp8{w[0]});
          acc[c] += x1 * ToFloat(Fp8{w[1]});
        }
      }
    }
  });
}

void TileInt8(const GemmTile& t) {
  ForBlocks<int32_t>(t, [&](int r, const uint8_t* line, int32_t* acc) {
    const auto* x = static_cast<const int8_t*>(t.x) + r * t.x_stride;
    for (int64_t l = 0; l < t.lines; ++l, x += 4, line += t.w_stride) {
      for (int c = 0; c < 16; ++c) {
        for (int i = 0; i < 4; ++i) acc[c] += x[i] * line[4 * c + i];
      }
    }
  });
}

void TileInt4(const GemmTile& t) {
  constexpr int kGroupLines = kInt4Group / 8;
  ForBlocks<float>(t, [&](int r, const uint8_t* line, float* acc) {
    const auto* x = static_cast<const int8_t*>(t.x) + r * t.x_stride;
    const InputGroup* x_group = t.x_groups + r * t.x_groups_stride;
    for (int64_t l = 0; l < t.lines; l += 2 + 2 * kGroupLines) {
      const auto* scales = reinterpret_cast<const uint16_t*>(line);
      const auto* offsets = reinterpret_cast<const uint16_t*>(line + t.w_stride);
      line += 2 * t.w_stride;
      for (int group = 0; group < 2; ++group, scales += 16, offsets += 16, ++x_group) {
        int32_t sum[16] = {};
        for (int i = 0; i < kGroupLines; ++i, x += 8, line += t.w_stride) {
          for (int c = 0; c < 16; ++c) {
            for (int b = 0; b < 4; ++b) {
              const int codes = line[4 * c + b];
              sum[c] += x[b] * (codes & 15) + x[4 + b] * (codes >> 4);
            }
          }
        }
        for (int c = 0; c < 16; ++c) {
          acc[c] += static_cast<float>(sum[c]) * (ToFloat(Bf16{scales[c]}) * x_group->scale);
          acc[c] += ToFloat(Bf16{offsets[c]}) * x_group->sum;
        }
      }
    }
  });
}

void Scale(const ScaleTile& s) {
  for (int r = 0; r < s.rows; ++r) {
    float* acc = s.acc + r * kTileColumns;
    for (int c = 0; c < 16 * s.width; ++c) {
      switch (s.format) {
        case WeightFormat::kBf16:
        case WeightFormat::kInt4:
          break;
        case WeightFormat::kFp8:
          acc[c] *= s.column_scales[c];
          break;
        case WeightFormat::kInt8: {
          int32_t sum;
          std::memcpy(&sum, &acc[c], sizeof sum);
          sum -= 128 * s.row_sums[r];
          acc[c] = static_cast<float>(sum) * s.column_scales[c] * s.row_scales[r];
          break;
        }
      }
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

struct Scaled {
  float scale;  // NaN if a value is not finite
  int32_t sum;
};

Scaled Quantize(const float* x, int64_t count, int8_t* codes) {
  std::fill_n(codes, count, int8_t{0});
  float largest = 0;
  for (int64_t k = 0; k < count; ++k) {
    if (!std::isfinite(x[k])) return {std::numeric_limits<float>::quiet_NaN(), 0};
    largest = std::max(largest, std::fabs(x[k]));
  }
  if (largest < kQuantizeFloor) return {0, 0};
  const float inverse = 127.0f / largest;
  int32_t sum = 0;
  for (int64_t k = 0; k < count; ++k) {
    codes[k] = static_cast<int8_t>(std::nearbyint(x[k] * inverse));
    sum += codes[k];
  }
  return {largest / 127.0f, sum};
}

std::vector<float> Widen(const uint16_t* x, int64_t columns, int64_t padded) {
  std::vector<float> wide(padded);
  for (int64_t k = 0; k < columns; ++k) wide[k] = ToFloat(Bf16{x[k]});
  return wide;
}

void QuantizeInputRow(const QuantizeRow& q) {
  std::vector<float> x = Widen(q.x, q.columns, q.padded);
  for (int64_t k = 0; q.rotate && k < q.padded; k += kRotation) RotateBlock(&x[k]);
  const Scaled scaled = Quantize(x.data(), q.padded, q.codes);
  *q.scale = scaled.scale;
  *q.sum = scaled.sum;
}

void QuantizeInputGroups(const QuantizeGroups& q) {
  const std::vector<float> x = Widen(q.x, q.columns, q.padded);
  for (int64_t k = 0; k < q.padded; k += kInt4Group) {
    const Scaled scaled = Quantize(&x[k], kInt4Group, q.codes + k);
    q.groups[k / kInt4Group] = {scaled.scale, scaled.scale * static_cast<float>(scaled.sum)};
  }
}

void Finish() {}

constexpr FormatKernels Format(void (*tile)(const GemmTile&)) {
  return {.max_rows = 4,
          .even_tiles = false,
          .prefetch_from_rows = 1 << 30,
          .tile = tile};
}

}  // namespace

const GemmKernels kGemmPlain = {
    .formats = {Format(TileBf16), Format(TileFp8), Format(TileInt8), Format(TileInt4)},
    .scale = Scale,
    .store_linear = Linear,
    .store_swiglu = SwiGlu,
    .quantize_row = QuantizeInputRow,
    .quantize_groups = QuantizeInputGroups,
    .finish = Finish};

}  // namespace skim
