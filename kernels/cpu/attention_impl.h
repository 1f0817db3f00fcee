// Attention on one tile of rows, written once over the vector types of vec_*.h.
#pragma once

#include "kernels/cpu/attention_kernels.h"

namespace skim {
namespace {

// A page holds too few consecutive lines of a head for the hardware to see a stream, and
// decoding is bound by memory: the first rows of a tile bring the next block nearer, spread
// over all the work on this one.
inline void Fetch(const void* line) { __builtin_prefetch(line, 0, 3); }

constexpr int kLine = 64;  // bytes
// The values fetched during the softmax; the rest is fetched while values are weighed.
constexpr int kSoftmaxFetchSlots = kAttentionBlock / 2;

// With few rows, bf16 keys are read in the order in which they lie in memory.
constexpr int kFewRows = 8;

// How the passes below see K and V: lines of kOperands dot-product operands, neighbours along
// the summed axis. kScaled: every slot has a scale, and pages are padded to whole lines.
template <typename V, KvFormat kFormat>
struct StoredLines {
  static constexpr bool kScaled = kFormat != KvFormat::kBf16;
  static constexpr int kOperands = kScaled ? 2 : 1;
  static constexpr bool kFetch = true;
  // With codes, a key group alone has too few sums to hide the latency of the dot unit.
  static constexpr int kFewRowsVecs = kScaled && V::kTileVecs > 1 ? 2 : 1;

  void Load(const std::byte* line, typename V::Pairs* operands) const {
    if constexpr (kScaled) {
      codes.Load(line, &operands[0], &operands[1]);
    } else {
      operands[0] = V::LoadPairs(reinterpret_cast<const Bf16*>(line));
    }
  }
  void LoadTail(const std::byte* line, int lanes, typename V::Pairs* operands) const {
    static_assert(!kScaled);
    operands[0] = V::LoadPairsPartial(reinterpret_cast<const Bf16*>(line), lanes);
  }

 private:
  struct NoCodes {};
  template <KvFormat kCodes, bool = kScaled>
  struct CodesOf {
    using Type = typename V::template Codes<kCodes>;
  };
  template <KvFormat kCodes>
  struct CodesOf<kCodes, false> {
    using Type = NoCodes;
  };
  typename CodesOf<kFormat>::Type codes;
};

// Codes of a whole block turned to bf16 in AttentionTile::expanded, once for many rows.
template <typename V>
struct ExpandedLines {
  static constexpr bool kScaled = true;
  static constexpr int kOperands = 1;
  static constexpr bool kFetch = false;
  static constexpr int kFewRowsVecs = 1;

  void Load(const std::byte* line, typename V::Pairs* operands) const {
    operands[0] = V::LoadPairs(reinterpret_cast<const Bf16*>(line));
  }
};

template <typename Lines>
int KeyWidth(const AttentionTile& tile) {
  return Lines::kScaled ? tile.q_stride : tile.head_dim;
}
template <typename Lines>
int ValueWidth(const AttentionTile& tile) {
  return Lines::kScaled ? tile.columns : tile.head_dim;
}
// From one line of a key, or row of value lines, to the next: 4 bytes a key or column.
constexpr int kCell = 4;

// scores[r][64] = q[r] . keys, for kRows rows and kVecs groups of 16 keys. One accumulator
// per score takes the pairs in ascending order whatever kRows and kVecs are.
template <typename V, typename Lines, int kRows, int kVecs>
void ScoreRows(const Lines& lines, const AttentionTile& tile, const AttentionBlock& block, int row,
               int group) {
  constexpr int kOperands = Lines::kOperands;
  typename V::F sum[kRows][kVecs];
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
    for (int v = 0; v < kVecs; ++v) sum[r][v] = V::Set(0);
  }
  const Bf16* q = tile.q + row * tile.q_stride;
  const int width = KeyWidth<Lines>(tile);
  for (int d = 0, at = 0; d < width; d += 2 * kOperands, at += kLine) {
    if (Lines::kFetch && row == 0) {
      for (int v = 0; v < kVecs; ++v) Fetch(block.next.keys[group + v] + at);
    }
    typename V::Pairs keys[kVecs][kOperands];
#pragma GCC unroll 4
    for (int v = 0; v < kVecs; ++v) lines.Load(block.at.keys[group + v] + at, keys[v]);
#pragma GCC unroll 2
    for (int o = 0; o < kOperands; ++o) {
#pragma GCC unroll 8
      for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
        for (int v = 0; v < kVecs; ++v) {
          sum[r][v] = V::Dot(sum[r][v], q + r * tile.q_stride + d + 2 * o, keys[v][o]);
        }
      }
    }
  }
  float* scores = tile.scores + row * kAttentionBlock + group * kKeyGroup;
#pragma GCC unroll 4
  for (int v = 0; v < kVecs; ++v) {
    typename V::F scale;
    if constexpr (Lines::kScaled) scale = V::Load(block.at.key_scales[group + v]);
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) {
      if constexpr (Lines::kScaled) sum[r][v] = V::Mul(sum[r][v], scale);
      V::Store(scores + r * kAttentionBlock + v * kKeyGroup, sum[r][v]);
    }
  }
}

// acc[r] = acc[r] * factors[r] + probabilities[r] . values, for kRows rows and kVecs vectors
// of columns, the last of which may be cut short by head_dim (kTail).
template <typename V, typename Lines, int kRows, int kVecs, bool kTail>
void WeighRows(const Lines& lines, const AttentionTile& tile, const AttentionBlock& block,
               const AttentionState& state, int row, int column) {
  constexpr int kOperands = Lines::kOperands;
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
  const int width = ValueWidth<Lines>(tile);
  [[maybe_unused]] const int tail_lanes = width - column - (kVecs - 1) * V::kLanes;
  const Bf16* p = tile.probabilities + row * kAttentionBlock;
  for (int slot = 0; slot < block.slots; slot += kKeyGroup) {
    const std::byte* values = block.at.values[slot / kKeyGroup] + kCell * column;
    const std::byte* next = block.next.values[slot / kKeyGroup] + kCell * column;
    const int end = block.slots - slot < kKeyGroup ? block.slots - slot : kKeyGroup;
    for (int s = 0; s < end; s += 2 * kOperands, values += kCell * width, next += kCell * width) {
      if (Lines::kFetch && row == 0 && slot >= kSoftmaxFetchSlots) {
        for (int v = 0; v < kVecs; ++v) Fetch(next + v * kLine);
      }
      typename V::Pairs v_pairs[kVecs][kOperands];
#pragma GCC unroll 4
      for (int v = 0; v < kVecs; ++v) {
        if constexpr (kTail) {
          if (v == kVecs - 1) {
            lines.LoadTail(values + v * kLine, tail_lanes, v_pairs[v]);
            continue;
          }
        }
        lines.Load(values + v * kLine, v_pairs[v]);
      }
#pragma GCC unroll 2
      for (int o = 0; o < kOperands; ++o) {
#pragma GCC unroll 8
        for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
          for (int v = 0; v < kVecs; ++v) {
            sum[r][v] =
                V::Dot(sum[r][v], p + r * kAttentionBlock + slot + s + 2 * o, v_pairs[v][o]);
          }
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

// Calls Pass::template Rows<n>(row) with n = kTileRows while it fits, then once for the rest.
template <typename V, int kRows = V::kTileRows, typename Pass>
void ForRowGroups(int row, int rows, const Pass& pass) {
  for (; rows - row >= kRows; row += kRows) pass.template Rows<kRows>(row);
  if constexpr (kRows > 1) ForRowGroups<V, kRows - 1>(row, rows, pass);
}

template <typename V, typename Lines>
struct ScorePass {
  const Lines& lines;
  const AttentionTile& tile;
  const AttentionBlock& block;

  template <int kRows>
  void Rows(int row) const {
    if (tile.rows <= kFewRows) {
      AllGroups<kRows, Lines::kFewRowsVecs>(row);
    } else {
      AllGroups<kRows, V::kTileVecs>(row);
    }
  }
  template <int kRows, int kVecs>
  void AllGroups(int row) const {
    for (int g = 0; g < kBlockGroups; g += kVecs) {
      ScoreRows<V, Lines, kRows, kVecs>(lines, tile, block, row, g);
    }
  }
};

template <typename V, typename Lines>
struct WeighPass {
  const Lines& lines;
  const AttentionTile& tile;
  const AttentionBlock& block;
  const AttentionState& state;

  template <int kRows>
  void Rows(int row) const {
    Columns<kRows, V::kTileVecs>(row, 0);
  }
  template <int kRows, int kVecs>
  void Columns(int row, int column) const {
    constexpr int kColumns = kVecs * V::kLanes;
    for (; tile.columns - column >= kColumns; column += kColumns) {
      if constexpr (!Lines::kScaled) {
        if (tile.head_dim - column < kColumns) {
          WeighRows<V, Lines, kRows, kVecs, true>(lines, tile, block, state, row, column);
          continue;
        }
      }
      WeighRows<V, Lines, kRows, kVecs, false>(lines, tile, block, state, row, column);
    }
    if constexpr (kVecs > 1) Columns<kRows, kVecs - 1>(row, column);
  }
};

template <typename V>
float Exp2(float x) {
  float lanes[V::kLanes];
  V::Store(lanes, V::Exp2(V::Set(x)));
  return lanes[0];
}

// Turns the scores of a row into probabilities relative to its new maximum. With scales, what
// is rounded is the product with the scale of the value; the sum then takes what is not.
template <typename V, bool kScaled>
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
    if constexpr (kScaled) {
      F weight = V::Mul(x[g], V::Load(block.at.value_scales[g]));
      // What stands for a slot that is not in use may be NaN.
      if (block.positions != nullptr) weight = V::Select(seen[g], weight, zero);
      V::StoreBf16(probabilities + g * kKeyGroup, weight);
    } else {
      x[g] = V::StoreBf16(probabilities + g * kKeyGroup, x[g]);
    }
  }
  const F block_sum = V::Add(V::Add(x[0], x[1]), V::Add(x[2], x[3]));
  // Most blocks do not raise the maximum; 2^0 is exactly 1, so this only saves time.
  const float factor = max == old_max ? 1 : Exp2<V>(old_max - max);
  tile.factors[row] = factor;
  state.max[row] = max;
  float* sum = state.sum + row * V::kLanes;
  V::Store(sum, V::Add(V::Mul(V::Load(sum), V::Set(factor)), block_sum));
}

template <typename V, typename Lines>
void SoftmaxRows(const AttentionTile& tile, const AttentionBlock& block,
                 const AttentionState& state) {
  // Of the lines fetched here, those of a group.
  const int group_bytes = kKeyGroup / (2 * Lines::kOperands) * kCell * ValueWidth<Lines>(tile);
  const int bytes = Lines::kFetch ? kSoftmaxFetchSlots / kKeyGroup * group_bytes : 0;
  if constexpr (Lines::kScaled) {
    for (int g = 0; g < kBlockGroups; ++g) {
      Fetch(block.next.key_scales[g]);
      Fetch(block.next.value_scales[g]);
    }
  }
  for (int r = 0, at = 0; r < tile.rows; ++r) {
    for (; at * tile.rows < bytes * (r + 1); at += kLine) {
      Fetch(block.next.values[at / group_bytes] + at % group_bytes);
    }
    SoftmaxRow<V, Lines::kScaled>(tile, block, state, r);
  }
}

// Turns the lines of a group, `rows` rows of `columns` lines, into lines of `to`, where the
// two operands of a line are a row of operands apart.
template <typename V, KvFormat kFormat>
void ExpandGroup(const StoredLines<V, kFormat>& lines, const std::byte* from, const std::byte* next,
                 int rows, int columns, Bf16* to) {
  constexpr int kNumbers = kLine / sizeof(Bf16);
  for (int row = 0; row < rows; ++row, to += columns * kNumbers) {
    for (int c = 0; c < columns; ++c, from += kLine, next += kLine, to += kNumbers) {
      Fetch(next);
      typename V::Pairs operands[2];
      lines.Load(from, operands);
      V::StorePairs(to, operands[0]);
      V::StorePairs(to + columns * kNumbers, operands[1]);
    }
  }
}

template <typename V, KvFormat kFormat>
AttentionBlock ExpandKeys(const StoredLines<V, kFormat>& lines, const AttentionTile& tile,
                          const AttentionBlock& block) {
  AttentionBlock expanded = block;
  for (int g = 0; g < kBlockGroups; ++g) {
    Bf16* to = tile.expanded + g * kKeyGroup * tile.q_stride;
    ExpandGroup(lines, block.at.keys[g], block.next.keys[g], tile.q_stride / 4, 1, to);
    expanded.at.keys[g] = reinterpret_cast<const std::byte*>(to);
  }
  return expanded;
}

template <typename V, KvFormat kFormat>
AttentionBlock ExpandValues(const StoredLines<V, kFormat>& lines, const AttentionTile& tile,
                            const AttentionBlock& block) {
  AttentionBlock expanded = block;
  for (int g = 0; g * kKeyGroup < block.slots; ++g) {
    Bf16* to = tile.expanded + g * kKeyGroup * tile.columns;
    ExpandGroup(lines, block.at.values[g], block.next.values[g], kKeyGroup / 4,
                tile.columns / V::kLanes, to);
    expanded.at.values[g] = reinterpret_cast<const std::byte*>(to);
  }
  return expanded;
}

// Expanding in registers again for each group of rows pays for one group only.
template <typename V, KvFormat kFormat>
bool Expands(const AttentionTile& tile) {
  return kFormat != KvFormat::kBf16 && tile.rows > V::kTileRows;
}

template <typename V, KvFormat kFormat>
void ScoreBlock(const AttentionTile& tile, const AttentionBlock& block) {
  const StoredLines<V, kFormat> lines;
  if (Expands<V, kFormat>(tile)) {
    if constexpr (kFormat != KvFormat::kBf16) {
      const ExpandedLines<V> expanded;
      ForRowGroups<V>(0, tile.rows, ScorePass<V, ExpandedLines<V>>{
                                        expanded, tile, ExpandKeys(lines, tile, block)});
    }
  } else {
    ForRowGroups<V>(0, tile.rows, ScorePass<V, StoredLines<V, kFormat>>{lines, tile, block});
  }
}

template <typename V, KvFormat kFormat>
void AddBlock(const AttentionTile& tile, const AttentionBlock& block, const AttentionState& state) {
  const StoredLines<V, kFormat> lines;
  ScoreBlock<V, kFormat>(tile, block);
  if (Expands<V, kFormat>(tile)) {
    if constexpr (kFormat != KvFormat::kBf16) {
      const ExpandedLines<V> expanded;
      SoftmaxRows<V, ExpandedLines<V>>(tile, block, state);
      ForRowGroups<V>(0, tile.rows, WeighPass<V, ExpandedLines<V>>{
                                        expanded, tile, ExpandValues(lines, tile, block), state});
    }
  } else {
    SoftmaxRows<V, StoredLines<V, kFormat>>(tile, block, state);
    ForRowGroups<V>(0, tile.rows,
                    WeighPass<V, StoredLines<V, kFormat>>{lines, tile, block, state});
  }
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

template <typename V, KvFormat kFormat>
constexpr KvKernels MakeKvKernels() {
  return {ScoreBlock<V, kFormat>, AddBlock<V, kFormat>};
}

template <typename V>
void AddProbabilities(const AttentionTile& tile, const AttentionBlock& block,
                      const float* log2_sum, float* sums) {
  const typename V::F scale = V::Set(tile.scale), zero = V::Set(0);
  for (int g = 0; g < kBlockGroups; ++g) {
    typename V::F sum = V::Load(sums + g * kKeyGroup);
    for (int r = 0; r < tile.rows; ++r) {
      const float* scores = tile.scores + r * kAttentionBlock + g * kKeyGroup;
      typename V::F p = V::Sub(V::Mul(V::Load(scores), scale), V::Set(log2_sum[r]));
      p = V::Exp2(p);
      if (block.positions != nullptr) {
        p = V::Select(V::AtMost(block.positions + g * kKeyGroup, tile.limit[r]), p, zero);
      }
      sum = V::Add(sum, p);
    }
    V::Store(sums + g * kKeyGroup, sum);
  }
}

template <typename V>
constexpr AttentionKernels MakeAttentionKernels() {
  return {{MakeKvKernels<V, KvFormat::kBf16>(), MakeKvKernels<V, KvFormat::kInt8>(),
           MakeKvKernels<V, KvFormat::kFp8>()},
          MergeStates<V>,
          FinishRow<V>,
          AddProbabilities<V>};
}

}  // namespace
}  // namespace skim
