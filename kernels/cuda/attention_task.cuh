// What the kernels of attention are given, and the arithmetic with which splits of a row's slots
// become one result. Additions and multiplications are spelled out: the compiler must not fuse
// them in one kernel and not in another.
#pragma once

#include "kernels/cuda/device_util.cuh"
#include "kernels/cuda/launch.h"

namespace skim::cuda {

inline constexpr int kSplitSlots = 512;
inline constexpr float kNegativeInfinity = -__builtin_inff();
inline constexpr float kLog2E = 1.44269504f, kLn2 = 0.693147181f;

static_assert(kSplitSlots % kAttentionBlock == 0);

struct AttentionTask {
  Matrix<const Bf16> q;
  Matrix<Bf16> out;
  float* lse;
  int heads;
  float scale;
  const int32_t* positions;
  const PageId* blocks;
  const int32_t* slot_positions;
  const AttentionTile* tiles;
  KvLayer kv;
  bool one_split;  // a block does the split blockIdx.z, not all of them
  int parts_of_pair;
  float* parts;  // [row][head][parts_of_pair] of AttentionPart; null if nothing has to be merged

  __device__ int sharing() const { return heads / kv.layout.kv_heads; }
};

// What is left of one or more splits: head_dim weighted sums of values, then the maximum of the
// scores, which are in units of ln 2, and the sum of the probabilities relative to it.
struct AttentionPart {
  float* sums;
  float* state;  // maximum, sum

  __host__ __device__ static int Floats(int head_dim) { return (head_dim + 3) / 4 * 4 + 4; }
  __device__ AttentionPart(const AttentionTask& task, int64_t row, int head, int split) {
    const int floats = Floats(task.kv.layout.head_dim);
    sums = task.parts + ((row * task.heads + head) * task.parts_of_pair + split) * floats;
    state = sums + floats - 4;
  }
};

// How the state of some splits and that of the next one become one.
struct SplitMerge {
  float maximum, keep, add;

  __device__ SplitMerge(float before, float next) : maximum(fmaxf(before, next)) {
    // Nothing seen so far: NaN otherwise.
    keep = before == kNegativeInfinity ? 0 : exp2f(__fsub_rn(before, maximum));
    add = next == kNegativeInfinity ? 0 : exp2f(__fsub_rn(next, maximum));
  }
  __device__ float operator()(float before, float next) const {
    return fmaf(next, add, __fmul_rn(before, keep));
  }
};

// A mean over what was seen from its sum and 1 / the sum of the probabilities; -0 becomes 0.
__device__ inline float Mean(float weighted, float inverse) {
  return __fadd_rn(__fmul_rn(weighted, inverse), 0.0f);
}
__device__ inline float Inverse(float sum) { return sum == 0 ? 0 : __frcp_rn(sum); }
__device__ inline float LogSumExp(float maximum, float sum) {
  return sum == 0 ? kNegativeInfinity : __fmul_rn(__fadd_rn(maximum, log2f(sum)), kLn2);
}

// A (row, head) pair of a tile.
struct TilePair {
  int64_t row;
  int head;

  __device__ TilePair(const AttentionTask& task, const AttentionTile& tile, int pair) {
    const int sharing = task.sharing(), index = tile.first_pair + pair;
    row = tile.first_row + index / sharing;
    head = static_cast<int>(blockIdx.y) * sharing + index % sharing;
  }
};

// Slots that a tile's pairs can see. Rows ascend in position.
__device__ inline int VisibleSlots(const AttentionTask& task, const AttentionTile& tile) {
  if (tile.place.positions_begin != SequenceRows::kInOrder) return tile.place.slots;
  return min(tile.place.slots, task.positions[TilePair(task, tile, tile.pairs - 1).row] + 1);
}

}  // namespace skim::cuda
