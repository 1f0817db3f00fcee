// What an instruction set provides for y = x W^T: a micro-kernel per weight format over one
// tile of rows and one group of column blocks, and the epilogues. Plain data only: this
// header is what common code and instruction-set units share (see kernels/CMakeLists.txt).
//
// G1. Every output element has one accumulator that takes the products in ascending order of
// k, from 0 to the padded K, by the same instruction for every tile shape. Spilling it to
// memory between two calls is exact. So the result of a row does not depend on how rows and
// columns are cut.
//
// bf16 and fp8 accumulate in fp32; a fp8 code is turned into the bf16 of the same value, and
// the column's scale multiplies the finished sum. What an instruction does with one line
// differs between sets (and so do their results, in the last bits):
//   plain, AVX2  acc = acc + x0 w0, then + x1 w1 (plain rounds the product, AVX2 does not)
//   AVX-512      VDPBF16PS: both products of a pair, its own rounding, denormals are zero
//   AMX          TDPBF16PS: 16 pairs at a time; even and odd k are summed apart, then both
//                are added to the accumulator; denormals are zero
// int8 accumulates in int32, which is exact and the same everywhere: x signed, w + 128
// unsigned; 128 times the row's sum is taken off at the end. int4 does so per group of
// kInt4Group inputs, then adds two products to a fp32 accumulator (fused, but not in plain
// code): the group's sum x (scale of w x scale of x), and the offset of w x the sum of x.
#pragma once

#include <cstdint>

#include "kernels/weight.h"

namespace skim {

inline constexpr int kMaxTileRows = 32;
inline constexpr int64_t kTileColumns = 64;  // of an accumulator row: one full group

// What int4 needs of a group of x: its scale, and scale x the sum of its codes.
struct InputGroup {
  float scale, sum;
};

// acc[r][0, 16 * width) += sum over the steps of x[r] * w. Lines, steps: packed_weight.h.
struct GemmTile {
  const void* x;     // first row, first k of this chunk; bf16, or int8 codes
  int64_t x_stride;  // elements
  const uint8_t* w;  // first line of the first block, first step of this chunk
  int64_t w_stride;  // bytes from one line to the next
  float* acc;        // [rows][kTileColumns]; int8 weights: int32
  int64_t lines;     // of one block in this chunk, whole steps
  int rows;          // 1 .. FormatKernels::max_rows
  int width;         // blocks, 1 .. 4
  bool from_zero;    // the first chunk: acc holds nothing yet
  // int4: [rows][x_groups_stride], from this chunk's first group on; else null.
  const InputGroup* x_groups;
  int64_t x_groups_stride;
  // The weights to be read next, fetched into the cache meanwhile: this many bytes per line of
  // this tile, up to prefetch_end.
  const char* prefetch;
  const char* prefetch_end;
  int prefetch_pace;
  int* configured_rows;  // AMX: what the tiles of this thread are set up for, 0 = nothing
};

// A chunk of weights rewritten for the tile function: out[lines of bf16][width][64 bytes].
struct ExpandLines {
  const uint8_t* w;
  int64_t w_stride;
  int64_t lines;
  int width;
  uint8_t* out;
};

// In place, from what the tile function left to x W^T in fp32:
//   fp8   acc * column_scales
//   int8  (acc - 128 * row_sums) * column_scales * row_scales, acc int32
struct ScaleTile {
  WeightFormat format;
  float* acc;  // [rows][kTileColumns]
  int rows;
  int width;                   // blocks
  const float* column_scales;  // of the first column
  const float* row_scales;     // of the first row
  const int32_t* row_sums;     // of the codes of each row
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

// Below this a row (or a group) of x counts as zero.
inline constexpr float kQuantizeFloor = 0x1p-100f;

// One row of x for int8 weights: codes = round(x / scale), scale = max |x| / 127, of the
// rotated row (hadamard.h) if `rotate`. A row that is not finite gets the scale NaN and zeros.
struct QuantizeRow {
  const uint16_t* x;  // bf16
  int64_t columns;
  int64_t padded;  // multiple of 64; zeros, before the rotation
  bool rotate;
  int8_t* codes;  // out [padded], 64-byte aligned
  float* scale;   // out
  int32_t* sum;   // out, of all codes
};

// One row of x for int4 weights: the same per group of kInt4Group, without rotation.
struct QuantizeGroups {
  const uint16_t* x;
  int64_t columns;
  int64_t padded;
  int8_t* codes;       // out [padded], 64-byte aligned
  InputGroup* groups;  // out [padded / kInt4Group]
};

struct FormatKernels {
  int max_rows;
  bool even_tiles;  // seven rows are better as 4 + 3 than as 6 + 1
  // From this many rows on, weights are prefetched by instruction. With fewer, reading them is
  // all that takes time, and the processor's own stream detection does that better.
  int prefetch_from_rows;
  int chunk_lines = 64;    // of a block, for few rows
  int prefetch_early = 1;  // the next chunk is fetched during the first 1 / so many of the tiles
  void (*tile)(const GemmTile&);
  // Null, or: from this many rows on, expanded_tile reads what this makes of a chunk.
  void (*expand)(const ExpandLines&) = nullptr;
  int expand_from_rows = 1;
  void (*expanded_tile)(const GemmTile&) = nullptr;
};

struct GemmKernels {
  FormatKernels formats[kWeightFormats];
  void (*scale)(const ScaleTile&);
  void (*store_linear)(const StoreLinear&);
  void (*store_swiglu)(const StoreSwiGlu&);
  void (*quantize_row)(const QuantizeRow&);
  void (*quantize_groups)(const QuantizeGroups&);
  void (*finish)();  // after a thread's last tile

  const FormatKernels& Of(WeightFormat format) const { return formats[static_cast<int>(format)]; }
};

extern const GemmKernels kGemmPlain;
extern const GemmKernels kGemmAvx2;
extern const GemmKernels kGemmAvx512;
extern const GemmKernels kGemmAmx;

}  // namespace skim
