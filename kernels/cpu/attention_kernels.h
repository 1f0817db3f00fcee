// What an instruction set provides for attention; attention.h says what is computed. Plain
// data only: common code and instruction-set units share this header.
#pragma once

#include <cstdint>

#include "base/bf16.h"
#include "kernels/kv_layout.h"

namespace skim {

inline constexpr int kKeyGroup = 16;  // keys side by side in a page
inline constexpr int kBlockGroups = kAttentionBlock / kKeyGroup;

// Rows (tokens x query heads of one KV head) that share every load of K and V.
struct AttentionTile {
  int rows;
  int head_dim;
  int columns;           // head_dim rounded up to 16: stride of accumulators
  const Bf16* q;         // [rows][head_dim]
  const int32_t* limit;  // [rows] the highest position a row sees
  float scale;           // log2(e) x that of AttentionArgs: powers of two are cheaper
  float* scores;         // scratch [rows][kAttentionBlock]
  Bf16* probabilities;   // scratch [rows][kAttentionBlock]
  float* factors;        // scratch [rows]
};

// Softmax over the slots seen so far: out = acc / sum, lse = ln 2 * (max + log2(sum)).
struct AttentionState {
  float* max;  // [rows], kNoMaximum where nothing was seen
  float* sum;  // [rows][16] by slot modulo 16, added up at the end
  float* acc;  // [rows][columns]
};
// Finite, so that the factor between two empty states is 2^0, not NaN.
inline constexpr float kNoMaximum = -3.402823466e+38f;

// Where kAttentionBlock slots lie, in groups of kKeyGroup. All are readable, also where no
// slot of a group is in use.
struct BlockPlaces {
  const Bf16* keys[kBlockGroups];
  const Bf16* values[kBlockGroups];
};

struct AttentionBlock {
  BlockPlaces at;
  BlockPlaces next;          // of the block after this one, to be fetched meanwhile
  int slots;                 // in use, 1 .. kAttentionBlock
  const int32_t* positions;  // [kAttentionBlock], INT32_MAX from `slots` on; or null:
                             // all slots are in use and seen by every row
};

struct AttentionKernels {
  void (*add_block)(const AttentionTile&, const AttentionBlock&, const AttentionState&);
  // into = into + from, in this order.
  void (*merge)(const AttentionTile&, const AttentionState& into, const AttentionState& from);
  // out = acc / sum, or zeros. Returns the sum.
  float (*finish)(const AttentionTile&, const AttentionState&, int row, Bf16* out);
};

extern const AttentionKernels kAttentionPlain;
extern const AttentionKernels kAttentionAvx2;
extern const AttentionKernels kAttentionAvx512;

}  // namespace skim
