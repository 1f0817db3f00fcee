// What an instruction set provides for single rows: norm, rotation, exponentials. Plain data
// only: common code and instruction-set units share this header.
#pragma once

#include <cstdint>

#include "base/bf16.h"
#include "kernels/cpu/isa.h"
#include "kernels/kv_layout.h"

namespace skim {

struct RotaryHead {
  const float* x;     // [head_dim]
  int head_dim;       // <= kMaxHeadDim
  const float* norm;  // [head_dim] RMS-norm weights, or null
  float norm_eps;
  const float* cos;  // [rotary_dim / 2] of the row's position
  const float* sin;
  int rotary_dim;
};

inline constexpr int kMaxHeadDim = 256;

struct LogitRange {
  float max;            // ignoring NaN
  bool has_nan_or_inf;  // a NaN or +inf; -inf is an ordinary value
};

struct RowKernels {
  // y = x / sqrt(mean(x^2) + eps) * weight. Squares are summed in 64 interleaved fp32 sums.
  void (*rms_norm)(const float* x, const float* weight, float eps, int64_t columns, Bf16* y);
  void (*rotate)(const RotaryHead& head, Bf16* y);
  void (*rotate_to_float)(const RotaryHead& head, float* y);  // the same, not rounded
  // Codes of x[0 .. n) as kv_layout.h defines them; returns their scale. Not for bf16.
  float (*quantize)(const float* x, int n, KvFormat format, uint8_t* codes);
  LogitRange (*scan)(const float* x, int64_t n);
  // weights[i] = exp((x[i] - max) / temperature), kept if not null; sums[b] = their sum over
  // [b * block, (b + 1) * block). block is a multiple of 16.
  void (*exp_weights)(const float* x, int64_t n, float max, float temperature, int block,
                      float* weights, double* sums);
};

extern const RowKernels kRowsPlain;
extern const RowKernels kRowsAvx2;
extern const RowKernels kRowsAvx512;

const RowKernels& RowKernelsOf(Isa isa);

}  // namespace skim
