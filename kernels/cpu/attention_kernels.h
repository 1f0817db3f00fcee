// What an instruction set provides for attention; attention.h says what is computed. Plain
// data only: common code and instruction-set units share this header.
#pragma once

#include <cstddef>
#include <cstdint>

#include "base/bf16.h"
#include "kernels/cpu/isa.h"
#include "kernels/kv_layout.h"

namespace skim {

inline constexpr int kKeyGroup = 16;  // keys side by side in a page
inline constexpr int kBlockGroups = kAttentionBlock / kKeyGroup;

// Rows (tokens x query heads of one KV head) that share every load of K and V.
struct AttentionTile {
  int rows;
  int head_dim;
  int q_stride;          // head_dim rounded up to 4, zeros between
  int columns;           // head_dim rounded up to 16: stride of accumulators
  const Bf16* q;         // [rows][q_stride]
  const int32_t* limit;  // [rows] the highest position a row sees
  float scale;           // log2(e) x that of AttentionArgs: powers of two are cheaper
  float* scores;         // scratch [rows][kAttentionBlock]
  Bf16* probabilities;   // scratch [rows][kAttentionBlock]
  float* factors;        // scratch [rows]
  Bf16* expanded;        // scratch [kAttentionBlock][columns]
};

// Softmax over the slots seen so far: out = acc / sum, lse = ln 2 * (max + log2(sum)).
struct AttentionState {
  float* max;  // [rows], kNoMaximum where nothing was seen
  float* sum;  // [rows][16] by slot modulo 16, added up at the end
  float* acc;  // [rows][columns]
};
// Finite, so that the factor between two empty states is 2^0, not NaN.
inline constexpr float kNoMaximum = -3.402823466e+38f;

// Where kAttentionBlock slots lie, in groups of kKeyGroup, in the layout of kv_layout.h. All
// are readable, also where no slot of a group is in use. Formats without scales ignore those.
struct BlockPlaces {
  const std::byte* keys[kBlockGroups];
  const std::byte* values[kBlockGroups];
  const float* key_scales[kBlockGroups];
  const float* value_scales[kBlockGroups];
};

struct AttentionBlock {
  BlockPlaces at;
  BlockPlaces next;          // of the block after this one, to be fetched meanwhile
  int slots;                 // in use, 1 .. kAttentionBlock
  const int32_t* positions;  // [kAttentionBlock], INT32_MAX from `slots` on; or null:
                             // all slots are in use and seen by every row
};

// What depends on how K and V are stored.
struct KvKernels {
  // tile.scores = q . k as stored, not yet times tile.scale, of every slot of the block; what
  // stands for slots that are not in use is undefined. Uses tile.rows, head_dim, q_stride,
  // columns, q, scores and expanded only.
  void (*score_block)(const AttentionTile&, const AttentionBlock&);
  void (*add_block)(const AttentionTile&, const AttentionBlock&, const AttentionState&);
};

struct AttentionKernels {
  KvKernels formats[kKvFormats];
  // into = into + from, in this order.
  void (*merge)(const AttentionTile&, const AttentionState& into, const AttentionState& from);
  // out = acc / sum, or zeros. Returns the sum.
  float (*finish)(const AttentionTile&, const AttentionState&, int row, Bf16* out);
  // sums[slot] += 2^(tile.scores * scale - log2_sum[r]) for each row r in turn, after
  // score_block; slots that it does not see are left out. log2_sum: [rows], of all it sees.
  void (*add_probabilities)(const AttentionTile&, const AttentionBlock&, const float* log2_sum,
                            float* sums);

  const KvKernels& Of(KvFormat format) const { return formats[static_cast<int>(format)]; }
};

extern const AttentionKernels kAttentionPlain;
extern const AttentionKernels kAttentionAvx2;
extern const AttentionKernels kAttentionAvx512;

const AttentionKernels& AttentionKernelsOf(Isa isa);

}  // namespace skim
