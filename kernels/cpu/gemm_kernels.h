// What an instruction set provides for y = x W^T: a micro-kernel over one tile of rows and
// one group of column blocks, and the epilogues. Plain data only: this header is what
// common code and instruction-set units share (see kernels/CMakeLists.txt).
//
// G1. Every output element has one fp32 accumulator that takes the products in ascending
// order of k, from 0 to the padded K, by the same instruction for every tile shape.
// Spilling it to memory between two calls is exact. So the result of a row does not depend
// on how rows and columns are cut. What an instruction does with one line differs between
// sets (and so do their results, in the last bits):
//   plain, AVX2  acc = acc + x0 w0, then + x1 w1 (plain rounds the product, AVX2 does not)
//   AVX-512      VDPBF16PS: both products of a pair, its own rounding, denormals are zero
//   AMX          TDPBF16PS: 16 pairs at a time; even and odd k are summed apart, then both
//                are added to the accumulator; denormals are zero
#pragma once

#include <cstdint>

namespace skim {

inline constexpr int kMaxTileRows = 32;
inline constexpr int64_t kTileColumns = 64;  // of an accumulator row: one full group

// acc[r][0, 16 * width) += sum over the pairs of x[r] * w
struct GemmTile {
  const uint16_t* x;  // bf16, first row, first k of this chunk
  int64_t x_stride;
  const uint16_t* w;  // first line of the first block, first pair of this chunk
  int64_t w_stride;   // elements from one pair's line to the next pair's
  float* acc;         // [rows][kTileColumns]
  int64_t pairs;      // multiple of 16
  int rows;           // 1 .. GemmKernels::max_rows
  int width;          // blocks, 1 .. 4
  bool from_zero;     // the first chunk: acc holds nothing yet
  // The weights to be read next, fetched into the cache meanwhile: this many 64-byte lines
  // per pair, up to prefetch_end.
  const char* prefetch;
  const char* prefetch_end;
  int prefetch_lines;
  int* configured_rows;  // AMX: what the tiles of this thread are set up for, 0 = nothing
};

// y[r][0, columns) = acc + bias, or y += that.
struct StoreLinear {
  const float* acc;
  const float* bias;  // of the first column, or null
  float* y;
  int64_t y_stride;
  int rows;
  int64_t columns;  // 1 .. 64
  bool accumulate;
};

// y[r][0, columns) = silu(gate + bias) * (up + bias); acc holds blocks gate, up, gate, up.
struct StoreSwiGlu {
  const float* acc;
  const float* gate_bias;  // of the first column, or null; then up_bias is null too
  const float* up_bias;
  uint16_t* y;  // bf16
  int64_t y_stride;
  int rows;
  int64_t columns;  // 1 .. 32
};

struct GemmKernels {
  int max_rows;
  bool even_tiles;  // seven rows are better as 4 + 3 than as 6 + 1
  // From this many rows on, weights are prefetched by instruction. With fewer, reading them is
  // all that takes time, and the processor's own stream detection does that better.
  int prefetch_from_rows;
  void (*tile)(const GemmTile&);
  void (*store_linear)(const StoreLinear&);
  void (*store_swiglu)(const StoreSwiGlu&);
  void (*finish)();  // after a thread's last tile
};

extern const GemmKernels kGemmPlain;
extern const GemmKernels kGemmAvx2;
extern const GemmKernels kGemmAvx512;
extern const GemmKernels kGemmAmx;

}  // namespace skim
