// The work of a block of the attention kernel: attention.cu says what it is.
#pragma once

#include <climits>

#include "kernels/cuda/attention_task.cuh"
#include "kernels/cuda/attention_tile.cuh"

namespace skim::cuda {

inline constexpr int kWarpPairs = 16;  // of a product
inline constexpr int kStep = 16;       // dimensions or slots that are summed in one product

template <KvFormat kFormat, int kDim, int kWarps>
struct AttentionMemory {
  using Tile = KvTile<kFormat, kDim>;
  static constexpr int kQueryRow = kDim + 8;  // rows of ldmatrix on different banks
  static constexpr int kTiles = Tile::kCoded ? 1 : 2;

  alignas(16) Bf16 q[kWarps * kWarpPairs][kQueryRow];
  alignas(16) uint32_t tiles[kTiles][Tile::kWords];
  alignas(16) std::byte raw[2][kPlaces][Tile::kCoded ? Tile::kRawBytes : 16];  // codes of K, V
  alignas(16) float scales[2][kAttentionBlock];

  __device__ uint32_t* keys() { return tiles[0]; }
  __device__ uint32_t* values() { return tiles[kTiles - 1]; }
};

// What a thread keeps of its two pairs, lane / 4 and lane / 4 + 8 of its warp's.
template <int kDim>
struct AttentionState {
  float maximum[2], sum[2];
  // Of dimension 16 j + 4 (lane % 4) + 2 e + t of pair r: [j][t][2 r + e].
  float acc[kDim / kStep][2][4];

  __device__ void Clear() {
    for (int r = 0; r < 2; ++r) {
      maximum[r] = kNegativeInfinity;
      sum[r] = 0;
    }
#pragma unroll
    for (int j = 0; j < kDim / kStep; ++j) {
#pragma unroll
      for (int t = 0; t < 2; ++t) {
#pragma unroll
        for (int e = 0; e < 4; ++e) acc[j][t][e] = 0;
      }
    }
  }
};

template <KvFormat kFormat, int kDim, int kWarps>
class AttentionBlock {
 public:
  using Memory = AttentionMemory<kFormat, kDim, kWarps>;
  using Tile = KvTile<kFormat, kDim>;

  __device__ AttentionBlock(const AttentionTask& task, Memory& memory)
      : task_(task),
        s_(memory),
        tile_(task.tiles[blockIdx.x]),
        visible_(VisibleSlots(task, tile_)),
        warp_(threadIdx.x / kWarp),
        lane_(threadIdx.x % kWarp),
        pairs_(min(kWarpPairs, tile_.pairs - warp_ * kWarpPairs)),
        in_order_(tile_.place.positions_begin == SequenceRows::kInOrder) {
    for (int r = 0; r < 2; ++r) {
      const int pair = lane_ / 4 + 8 * r;
      limit_[r] = pair < pairs_ ? task.positions[At(pair).row] : -1;
      if (in_order_) limit_[r] = min(limit_[r], visible_ - 1);
    }
    last_ = pairs_ > 0 ? task.positions[At(pairs_ - 1).row] : -1;
  }

  __device__ void Run() {
    const int begin = task_.one_split ? static_cast<int>(blockIdx.z) * kSplitSlots : 0;
    if (task_.one_split && begin >= visible_) return;
    const int end = task_.one_split ? min(begin + kSplitSlots, visible_) : visible_;
    Prepare();
    float maximum[2] = {kNegativeInfinity, kNegativeInfinity}, sum[2] = {};  // of earlier splits
    AttentionState<kDim> state;
    if (begin < end) {
      Find(begin);
      CopyKeys(begin);
    }
    for (int split = begin; split == begin || split < end; split += kSplitSlots) {
      state.Clear();
      Attend(split, min(split + kSplitSlots, end), end, state);
      if (!task_.one_split) {
        MergeEarlier(split > 0, maximum, sum, state);
        if (split + kSplitSlots >= end) return Finish(maximum, sum, state);
      }
      Leave(task_.one_split ? static_cast<int>(blockIdx.z) : 0, state);
    }
  }

 private:
  static constexpr int kSteps = kDim / kStep;

  __device__ TilePair At(int pair) const { return {task_, tile_, warp_ * kWarpPairs + pair}; }

  // The warp's queries to shared memory, and zeros around what is shorter than a product.
  __device__ void Prepare() {
    const int head_dim = task_.kv.layout.head_dim;
    const int padded = (head_dim + kStep - 1) / kStep * kStep;
#pragma unroll 1
    for (int pair = 0; pair < kWarpPairs; ++pair) {
      const uint32_t* from = nullptr;
      if (pair < pairs_) {
        const TilePair at = At(pair);
        from = reinterpret_cast<const uint32_t*>(task_.q.data + at.row * task_.q.stride +
                                                 at.head * head_dim);
      }
      auto* to = reinterpret_cast<uint32_t*>(s_.q[warp_ * kWarpPairs + pair]);
      for (int i = lane_; i < padded / 2; i += kWarp) {
        to[i] = pair < pairs_ && 2 * i < head_dim ? from[i] : 0;
      }
    }
    if (head_dim == padded) return;
    auto* words = s_.tiles[0];
    for (int i = threadIdx.x; i < Memory::kTiles * Tile::kWords; i += kWarps * kWarp) words[i] = 0;
    __syncthreads();  // before copies arrive
  }

  // Looks up where the slots from `at` on lie: each lane one group of them.
  __device__ void Find(int at) {
    found_ = GroupAt(task_.kv, task_.blocks, tile_.place.block_begin,
                     at + lane_ % kPlaces * kPlaceSlots, visible_, blockIdx.y);
  }

  // Calls f(group, where it lies) for those that the warp copies.
  template <typename F>
  __device__ void ForGroups(const F& f) const {
#pragma unroll 1
    for (int group = warp_; group < kPlaces; group += kWarps) {
      const auto head =
          __shfl_sync(kAllLanes, reinterpret_cast<unsigned long long>(found_.head), group);
      f(group, SlotGroup{reinterpret_cast<const std::byte*>(head),
                         __shfl_sync(kAllLanes, found_.offset, group)});
    }
  }

  // Keys, and the scales of keys and values, of the tile at `at`.
  __device__ void CopyKeys(int at) {
    ForGroups([&](int group, const SlotGroup& from) {
      Tile::CopyKeys(task_.kv, from, group, s_.keys(), s_.raw[0][group]);
      if (!Tile::kCoded || lane_ >= 8) return;
      const KvLayout& layout = task_.kv.layout;
      const int slot = lane_ % 4 * 4;
      const bool valid = at + group * kPlaceSlots + slot < visible_;
      const int64_t scale = lane_ < 4
                                ? layout.KeyScale(from.offset + slot)
                                : layout.ValueBase(0, 0) + layout.ValueScale(from.offset + slot);
      CopyAsync16(&s_.scales[lane_ / 4][group * kPlaceSlots + slot],
                  valid ? from.head + scale : task_.kv.pool, valid);
    });
    CommitAsync();
  }

  __device__ void CopyValues(int at) {
    ForGroups([&](int group, const SlotGroup& from) {
      const int count = visible_ - (at + group * kPlaceSlots);
      Tile::CopyValues(task_.kv, from, count, group, s_.values(), s_.raw[1][group]);
    });
    CommitAsync();
  }

  // What was being copied is there, and nobody needs what was multiplied with before.
  __device__ void Arrive() {
    WaitAsync<0>();
    __syncthreads();
  }

  // Adds the tiles of slots [begin, end) to the state; copies what comes next before `last`.
  __device__ void Attend(int begin, int end, int last, AttentionState<kDim>& state) {
    for (int at = begin; at < end; at += kAttentionBlock) {
      // A warp none of whose pairs sees anything of it only copies.
      const bool blind = pairs_ <= 0 || (in_order_ && at > last_);
      uint32_t p[kPlaces][4];
      Arrive();
      CopyValues(at);
      if constexpr (Tile::kCoded) {
        ForGroups([&](int group, const SlotGroup&) {
          Tile::UnpackKeys(task_.kv, group, s_.raw[0][group], s_.keys());
        });
        __syncthreads();
      }
      Find(at + kAttentionBlock);
      if (!blind) Normalise(at, p, state);
      Arrive();
      if (at + kAttentionBlock < last) CopyKeys(at + kAttentionBlock);
      if constexpr (Tile::kCoded) {
        ForGroups([&](int group, const SlotGroup&) {
          Tile::UnpackValues(task_.kv, group, s_.raw[1][group], s_.values());
        });
        __syncthreads();
      }
      if (!blind) Weigh(p, state);
    }
    for (int r = 0; r < 2; ++r) state.sum[r] = QuadSum(state.sum[r]);
  }

  // Over the four lanes that share a pair.
  __device__ static float QuadSum(float x) {
    for (int step = 1; step < 4; step *= 2) x = __fadd_rn(x, __shfl_xor_sync(kAllLanes, x, step));
    return x;
  }

  // x = q . k. A product has 8 columns: of 16 keys those of even number come first.
  __device__ void Score(float (&x)[kPlaces][2][4]) const {
    const int head_dim = task_.kv.layout.head_dim;
    const Bf16* query = s_.q[warp_ * kWarpPairs + lane_ % 16] + lane_ / 16 * 8;
    const uint32_t* keys = s_.keys() + Tile::KeyWord(0, lane_ % 4, lane_ / 8) + lane_ / 4 % 2 * 2;
#pragma unroll 2
    for (int d = 0; d < head_dim; d += kStep) {
      uint32_t a[4];
      LoadMatrixA(a, query + d);
#pragma unroll
      for (int g = 0; g < kPlaces; ++g) {
        const uint32_t* at = keys + (g * (kDim / 2) + d / 2) * Tile::kKeyRow;
        const uint2 low = *reinterpret_cast<const uint2*>(at);
        const uint2 high = *reinterpret_cast<const uint2*>(at + 4 * Tile::kKeyRow);
        MultiplyBf16(x[g][0], a, low.x, high.x);
        MultiplyBf16(x[g][1], a, low.y, high.y);
      }
    }
  }

  // Position of slot `slot`; what is not there, nobody sees.
  __device__ int PositionOf(int slot) const {
    if (in_order_) return slot;
    return slot < visible_ ? task_.slot_positions[tile_.place.positions_begin + slot] : INT_MAX;
  }

  // Probabilities of the tile at `at` relative to the new maximum, as the A operand of p . v, and
  // the state rescaled to it.
  __device__ void Normalise(int at, uint32_t (&p)[kPlaces][4], AttentionState<kDim>& state) const {
    float x[kPlaces][2][4] = {};
    Score(x);
    const float scale = __fmul_rn(task_.scale, kLog2E);
    float maximum[2] = {state.maximum[0], state.maximum[1]}, sum[2] = {}, factor[2];
#pragma unroll
    for (int g = 0; g < kPlaces; ++g) {
#pragma unroll
      for (int j = 0; j < 4; ++j) {  // of the four slots of a lane
        const int slot = g * kPlaceSlots + lane_ % 4 * 4 + j, position = PositionOf(at + slot);
#pragma unroll
        for (int r = 0; r < 2; ++r) {
          float& score = x[g][j % 2][2 * r + j / 2];
          score = __fmul_rn(score, scale);
          if constexpr (Tile::kCoded) score = __fmul_rn(score, s_.scales[0][slot]);
          if (position > limit_[r]) score = kNegativeInfinity;
          maximum[r] = fmaxf(maximum[r], score);
        }
      }
    }
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      for (int step = 1; step < 4; step *= 2) {
        maximum[r] = fmaxf(maximum[r], __shfl_xor_sync(kAllLanes, maximum[r], step));
      }
      const float before = state.maximum[r];
      factor[r] = before == maximum[r] ? 1 : exp2f(__fsub_rn(before, maximum[r]));
      state.maximum[r] = maximum[r];
    }
#pragma unroll
    for (int g = 0; g < kPlaces; ++g) {
#pragma unroll
      for (int j = 0; j < 4; ++j) {
#pragma unroll
        for (int r = 0; r < 2; ++r) {
          float& score = x[g][j % 2][2 * r + j / 2];
          // What is not seen counts as 0 even if nothing has been seen yet, or its scale is NaN.
          score = score == kNegativeInfinity ? 0 : exp2f(__fsub_rn(score, maximum[r]));
          if constexpr (Tile::kCoded) {
            sum[r] = __fadd_rn(sum[r], score);
            const float value_scale = s_.scales[1][g * kPlaceSlots + lane_ % 4 * 4 + j];
            score = score == 0 ? 0 : __fmul_rn(score, value_scale);
          }
        }
      }
      // Slots 0, 1 of the lane's four are one pair along the sum, slots 2, 3 the other.
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        p[g][i] = PackBf16(x[g][0][i % 2 * 2 + i / 2], x[g][1][i % 2 * 2 + i / 2]);
        // What is summed is what values are multiplied with, but for their scale.
        if constexpr (!Tile::kCoded) {
          sum[i % 2] = __fadd_rn(__fadd_rn(sum[i % 2], LowBf16(p[g][i])), HighBf16(p[g][i]));
        }
      }
    }
#pragma unroll
    for (int r = 0; r < 2; ++r) state.sum[r] = fmaf(state.sum[r], factor[r], sum[r]);
#pragma unroll
    for (int j = 0; j < kSteps; ++j) {
#pragma unroll
      for (int t = 0; t < 2; ++t) {
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          state.acc[j][t][e] = __fmul_rn(state.acc[j][t][e], factor[e / 2]);
        }
      }
    }
  }

  // acc += p . v. Of 16 dimensions those of even number come first.
  __device__ void Weigh(const uint32_t (&p)[kPlaces][4], AttentionState<kDim>& state) const {
    const uint32_t* values = s_.values() + Tile::ValueWord(0, lane_ % 4 * 2, 0) + lane_ / 4 * 2;
#pragma unroll
    for (int j = 0; j < kSteps; ++j) {
      if (j * kStep >= task_.kv.layout.head_dim) break;
#pragma unroll
      for (int g = 0; g < kPlaces; ++g) {
        const uint32_t* at = values + g * (kPlaceSlots / 2) * Tile::kValueRow + j * kStep;
        const uint2 low = *reinterpret_cast<const uint2*>(at);
        const uint2 high = *reinterpret_cast<const uint2*>(at + Tile::kValueRow);
        MultiplyBf16(state.acc[j][0], p[g], low.x, high.x);
        MultiplyBf16(state.acc[j][1], p[g], low.y, high.y);
      }
    }
  }

  // Calls f(pair, r) for the pairs r that are there.
  template <typename F>
  __device__ void ForPairs(const F& f) const {
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const int pair = lane_ / 4 + 8 * r;
      if (pair < pairs_) f(At(pair), r);
    }
  }

  // Calls f(first of four dimensions, their sums) for what the thread holds of pair r.
  template <typename F>
  __device__ void ForSums(int r, AttentionState<kDim>& state, const F& f) const {
    const int head_dim = task_.kv.layout.head_dim, first = lane_ % 4 * 4;
#pragma unroll
    for (int j = 0; j < kSteps; ++j) {
      if (j * kStep + first >= head_dim) break;
      f(j * kStep + first, state.acc[j][0][2 * r], state.acc[j][1][2 * r],
        state.acc[j][0][2 * r + 1], state.acc[j][1][2 * r + 1]);
    }
  }

  // Turns the state of a split into that of all so far, whose sums the thread left in memory.
  __device__ void MergeEarlier(bool any, float (&maximum)[2], float (&sum)[2],
                               AttentionState<kDim>& state) const {
    ForPairs([&](const TilePair& at, int r) {
      const SplitMerge merge(maximum[r], state.maximum[r]);
      maximum[r] = merge.maximum;
      sum[r] = merge(sum[r], state.sum[r]);
      const float* earlier = any ? AttentionPart(task_, at.row, at.head, 0).sums : nullptr;
      ForSums(r, state, [&](int d, float& a, float& b, float& c, float& e) {
        float4 before = {};
        if (any) before = *reinterpret_cast<const float4*>(earlier + d);
        a = merge(before.x, a);
        b = merge(before.y, b);
        c = merge(before.z, c);
        e = merge(before.w, e);
      });
    });
  }

  __device__ void Leave(int part, AttentionState<kDim>& state) const {
    ForPairs([&](const TilePair& at, int r) {
      const AttentionPart to(task_, at.row, at.head, part);
      ForSums(r, state, [&](int d, float a, float b, float c, float e) {
        *reinterpret_cast<float4*>(to.sums + d) = {a, b, c, e};
      });
      if (lane_ % 4 != 0) return;
      to.state[0] = state.maximum[r];
      to.state[1] = state.sum[r];
    });
  }

  __device__ void Finish(const float (&maximum)[2], const float (&sum)[2],
                         AttentionState<kDim>& state) const {
    const int head_dim = task_.kv.layout.head_dim;
    ForPairs([&](const TilePair& at, int r) {
      Bf16* out = task_.out.data + at.row * task_.out.stride + at.head * head_dim;
      const float inverse = Inverse(sum[r]);
      ForSums(r, state, [&](int d, float a, float b, float c, float e) {
        auto* words = reinterpret_cast<uint32_t*>(out + d);
        words[0] = PackBf16(Mean(a, inverse), Mean(b, inverse));
        if (d + 2 < head_dim) words[1] = PackBf16(Mean(c, inverse), Mean(e, inverse));
      });
      if (lane_ % 4 != 0 || task_.lse == nullptr) return;
      task_.lse[at.row * task_.heads + at.head] = LogSumExp(maximum[r], sum[r]);
    });
  }

  const AttentionTask& task_;
  Memory& s_;
  const AttentionTile tile_;
  const int visible_, warp_, lane_;
  const int pairs_;  // of the warp; may be negative
  const bool in_order_;
  int limit_[2], last_;  // position up to which the thread's pairs and the warp's last one see
  SlotGroup found_;      // by lane % kPlaces
};

}  // namespace skim::cuda
