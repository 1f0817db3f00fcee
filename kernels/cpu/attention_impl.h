// Attention on one tile of rows, written once over the vector types of vec_*.h.
#pragma once

#include "kernels/cpu/attention_kernels.h"

namespace skim {
namespace {

// A page holds too few consecutive lines of a head for the hardware to see a stream, and
// decoding is bound by memory: the first rows of a tile bring the next block nearer, spread
// over all the work on this one. Into the second level: the first stalls on its few miss
// buffers.
inline void Fetch(const Bf16* line) { __builtin_prefetch(line, 0, 2); }

constexpr int kLine = 64 / sizeof(Bf16);
// The values fetched during the softmax; the rest is fetched while values are weighed.
constexpr int kSoftmaxFetchSlots = kAttentionBlock / 2;

// With few rows, keys are read in the order in which they lie in memory.
constexpr int kFewRows = 8;

// scores[r][64] = q[r] . keys, for kRows rows and kVecs groups of 16 keys. One accumulator
// per score takes the pairs in ascending order whatever kRows and kVecs are.
template <typename V, int kRows, int kVecs>
void ScoreRows(const AttentionTile& tile, const AttentionBlock& block, int row, int group) {
  typename V::F sum[kRows][kVecs];
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
    for (int v = 0; v < kVecs; ++v) sum[r][v] = V::Set(0);
  }
  const Bf16* q = tile.q + row * tile.head_dim;
  for (int d = 0; d < tile.head_dim; d += 2) {
    if (row == 0) {
      for (int v = 0; v < kVecs; ++v) Fetch(block.next.keys[group + v] + d * kKeyGroup);
    }
    typename V::Pairs keys[kVecs];
#pragma GCC unroll 4
    for (int v = 0; v < kVecs; ++v)
      keys[v] = V::LoadPairs(block.at.keys[group + v] + d * kKeyGroup);
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
      for (int v = 0; v < kVecs; ++v) {
        sum[r][v] = V::Dot(sum[r][v], q + r * tile.head_dim + d, keys[v]);
      }
    }
  }
  float* scores = tile.scores + row * kAttentionBlock + group * kKeyGroup;
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
    for (int v = 0; v < kVecs; ++v) {
      V::Store(scores + r * kAttentionBlock + v * kKeyGroup, sum[r][v]);
    }
  }
}

// acc[r] = acc[r] * factors[r] + probabilities[r] . values, for kRows rows and kVecs vectors
// of columns, the last of which may be cut short by head_dim (kTail).
template <typename V, int kRows, int kVecs, bool kTail>
void WeighRows(const AttentionTile& tile, const AttentionBlock& block, const AttentionState& state,
               int row, int column) {
  float* acc = state.acc + row * tile.columns + column;
  typename V::F sum[kRows][kVecs];
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) {
    const typename V::F factor = V::Set(tile.factors[row + r]);
#pragma GCC unroll 4
    for (int v = 0; v < kVecs; ++v) {
      sum[r][v] = V::Mul(V::Load(acc + r * tile.columns + v * V::kLanes), factor);
    }
  }
  const int tail_lanes = tile.head_dim - column - (kVecs - 1) * V::kLanes;
  const Bf16* p = tile.probabilities + row * kAttentionBlock;
  for (int slot = 0; slot < block.slots; slot += kKeyGroup) {
    const Bf16* values = block.at.values[slot / kKeyGroup] + 2 * column;
    const Bf16* next = block.next.values[slot / kKeyGroup] + 2 * column;
    const int end = block.slots - slot < kKeyGroup ? block.slots - slot : kKeyGroup;
    for (int s = 0; s < end; s += 2, values += 2 * tile.head_dim, next += 2 * tile.head_dim) {
      if (row == 0 && slot >= kSoftmaxFetchSlots) {
        for (int v = 0; v < kVecs; ++v) Fetch(next + v * 2 * V::kLanes);
      }
      typename V::Pairs v_pairs[kVecs];
#pragma GCC unroll 4
      for (int v = 0; v < kVecs; ++v) {
        v_pairs[v] = kTail && v == kVecs - 1
                         ? V::LoadPairsPartial(values + v * 2 * V::kLanes, tail_lanes)
                         : V::LoadPairs(values + v * 2 * V::kLanes);
      }
#pragma GCC unroll 8
      for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
        for (int v = 0; v < kVecs; ++v) {
          sum[r][v] = V::Dot(sum[r][v], p + r * kAttentionBlock + slot + s, v_pairs[v]);
        }
      }
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
    for (int v = 0; v < kVecs; ++v) {
      V::Store(acc + r * tile.columns + v * V::kLanes, sum[r][v]);
    }
  }
}

template <typename V, int kRows>
void ScoreAllKeys(const AttentionTile& tile, const AttentionBlock& block, int row) {
  if (tile.rows <= kFewRows) {
    for (int g = 0; g < kBlockGroups; ++g) ScoreRows<V, kRows, 1>(tile, block, row, g);
  } else {
    for (int g = 0; g < kBlockGroups; g += V::kTileVecs) {
      ScoreRows<V, kRows, V::kTileVecs>(tile, block, row, g);
    }
  }
}

template <typename V, int kRows, int kVecs = V::kTileVecs>
void WeighColumns(const AttentionTile& tile, const AttentionBlock& block,
                  const AttentionState& state, int row, int column) {
  while (tile.columns - column >= kVecs * V::kLanes) {
    if (tile.head_dim - column >= kVecs * V::kLanes) {
      WeighRows<V, kRows, kVecs, false>(tile, block, state, row, column);
    } else {
      WeighRows<V, kRows, kVecs, true>(tile, block, state, row, column);
    }
    column += kVecs * V::kLanes;
  }
  if constexpr (kVecs > 1) WeighColumns<V, kRows, kVecs - 1>(tile, block, state, row, column);
}

// Calls Pass::template Rows<n>(row) with n = kTileRows while it fits, then once for the rest.
template <typename V, int kRows = V::kTileRows, typename Pass>
void ForRowGroups(int row, int rows, const Pass& pass) {
  for (; rows - row >= kRows; row += kRows) pass.template Rows<kRows>(row);
  if constexpr (kRows > 1) ForRowGroups<V, kRows - 1>(row, rows, pass);
}

template <typename V>
struct ScorePass {
  const AttentionTile& tile;
  const AttentionBlock& block;
  template <int kRows>
  void Rows(int row) const {
    ScoreAllKeys<V, kRows>(tile, block, row);
  }
};

template <typename V>
struct WeighPass {
  const AttentionTile& tile;
  const AttentionBlock& block;
  const AttentionState& state;
  template <int kRows>
  void Rows(int row) const {
    WeighColumns<V, kRows>(tile, block, state, row, 0);
  }
};

template <typename V>
float Exp2(float x) {
  float lanes[V::kLanes];
  V::Store(lanes, V::Exp2(V::Set(x)));
  return lanes[0];
}

// Turns the scores of a row into probabilities relative to its new maximum.
template <typename V>
void SoftmaxRow(const AttentionTile& tile, const AttentionBlock& block, const AttentionState& state,
                int row) {
  using F = typename V::F;
  const float* scores = tile.scores + row * kAttentionBlock;
  const F scale = V::Set(tile.scale), none = V::Set(kNoMaximum), zero = V::Set(0);
  typename V::Mask seen[kBlockGroups];
  F x[kBlockGroups];
  for (int g = 0; g < kBlockGroups; ++g) {
    x[g] = V::Mul(V::Load(scores + g * kKeyGroup), scale);
    if (block.positions != nullptr) {
      seen[g] = V::AtMost(block.positions + g * kKeyGroup, tile.limit[row]);
      x[g] = V::Select(seen[g], x[g], none);
    }
  }
  const float old_max = state.max[row];
  const float block_max = V::ReduceMax(V::Max(V::Max(x[0], x[1]), V::Max(x[2], x[3])));
  const float max = block_max > old_max ? block_max : old_max;
  const F max_lanes = V::Set(max);
  Bf16* probabilities = tile.probabilities + row * kAttentionBlock;
  for (int g = 0; g < kBlockGroups; ++g) {
    x[g] = V::Exp2(V::Sub(x[g], max_lanes));
    if (block.positions != nullptr) x[g] = V::Select(seen[g], x[g], zero);
    x[g] = V::StoreBf16(probabilities + g * kKeyGroup, x[g]);
  }
  const F block_sum = V::Add(V::Add(x[0], x[1]), V::Add(x[2], x[3]));
  // Most blocks do not raise the maximum; 2^0 is exactly 1, so this only saves time.
  const float factor = max == old_max ? 1 : Exp2<V>(old_max - max);
  tile.factors[row] = factor;
  state.max[row] = max;
  float* sum = state.sum + row * V::kLanes;
  V::Store(sum, V::Add(V::Mul(V::Load(sum), V::Set(factor)), block_sum));
}

template <typename V>
void AddBlock(const AttentionTile& tile, const AttentionBlock& block, const AttentionState& state) {
  ForRowGroups<V>(0, tile.rows, ScorePass<V>{tile, block});
  const int group_lines = kKeyGroup * tile.head_dim / kLine;
  const int lines = kSoftmaxFetchSlots / kKeyGroup * group_lines;
  for (int r = 0, line = 0; r < tile.rows; ++r) {
    for (; line * tile.rows < lines * (r + 1); ++line) {
      Fetch(block.next.values[line / group_lines] + line % group_lines * kLine);
    }
    SoftmaxRow<V>(tile, block, state, r);
  }
  ForRowGroups<V>(0, tile.rows, WeighPass<V>{tile, block, state});
}

template <typename V>
void MergeStates(const AttentionTile& tile, const AttentionState& into,
                 const AttentionState& from) {
  for (int r = 0; r < tile.rows; ++r) {
    const float max = from.max[r] > into.max[r] ? from.max[r] : into.max[r];
    const typename V::F keep = V::Set(Exp2<V>(into.max[r] - max));
    const typename V::F add = V::Set(Exp2<V>(from.max[r] - max));
    const auto merge = [&](float* a, const float* b) {
      V::Store(a, V::Add(V::Mul(V::Load(a), keep), V::Mul(V::Load(b), add)));
    };
    into.max[r] = max;
    merge(into.sum + r * V::kLanes, from.sum + r * V::kLanes);
    for (int c = 0; c < tile.columns; c += V::kLanes) {
      merge(into.acc + r * tile.columns + c, from.acc + r * tile.columns + c);
    }
  }
}

template <typename V>
float FinishRow(const AttentionTile& tile, const AttentionState& state, int row, Bf16* out) {
  const float sum = V::ReduceAdd(V::Load(state.sum + row * V::kLanes));
  const float inverse = sum == 0 ? 0.0f : 1 / sum;
  const float* acc = state.acc + row * tile.columns;
  for (int c = 0; c < tile.head_dim; c += V::kLanes) {
    const int lanes = tile.head_dim - c < V::kLanes ? tile.head_dim - c : V::kLanes;
    // Adding zero turns -0 into +0: passing a masked block may do that too.
    V::StoreBf16(out + c, V::Add(V::Mul(V::Load(acc + c), V::Set(inverse)), V::Set(0)), lanes);
  }
  return sum;
}

template <typename V>
constexpr AttentionKernels MakeAttentionKernels() {
  return {AddBlock<V>, MergeStates<V>, FinishRow<V>};
}

}  // namespace
}  // namespace skim
