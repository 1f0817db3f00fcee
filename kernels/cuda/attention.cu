// Paged attention, one block per row, KV head and up to kGroup of its query heads: K and V are
// read once for all of them. Softmax is accumulated over blocks of kAttentionBlock slots, as on the
// CPU, so prefill and decode compute a row alike whatever else is in the batch.
#include <algorithm>

#include "kernels/cuda/kv_read.cuh"
#include "kernels/cuda/launch.h"

namespace skim::cuda {
namespace {

constexpr int kWarps = 4;
constexpr int kThreads = kWarps * kWarp;
constexpr int kGroup = 8;  // query heads of a block, which bounds its shared memory
constexpr float kNegativeInfinity = -__builtin_inff();

static_assert(kAttentionBlock == 2 * kWarp, "a lane holds two scores of a block");

struct Task {
  Matrix<const Bf16> q;
  Matrix<Bf16> out;
  float* lse;
  int heads;
  float scale;
  const int32_t* positions;
  const PageId* blocks;
  const int32_t* slot_positions;
  const RowPlace* places;
  KvLayer kv;
};

// Where 16 slots of a block lie: their first number, and the scales of coded ones.
struct Place {
  const std::byte* keys;
  const std::byte* values;
  const float* key_scales;
  const float* value_scales;
};

// Views of the block's shared memory.
struct Scratch {
  Place (&places)[kPlaces];
  float* q;        // [group][head_dim]
  float* acc;      // [group][head_dim]
  float* scores;   // [group][kAttentionBlock], then what the stored values are multiplied with
  float* maximum;  // [group]
  float* sum;      // [group]
  float* factor;   // [group] what the block rescales acc with

  __device__ Scratch(float* memory, Place (&places_of_block)[kPlaces], int group, int head_dim)
      : places(places_of_block),
        q(memory),
        acc(q + group * head_dim),
        scores(acc + group * head_dim),
        maximum(scores + group * kAttentionBlock),
        sum(maximum + group),
        factor(sum + group) {}
};

// Looks up where the slots from `first` on lie. A group past the last slot has no page.
__device__ void FindPlaces(const Task& task, const Scratch& s, int first) {
  const KvLayout& layout = task.kv.layout;
  const RowPlace place = task.places[blockIdx.x];
  const int slot = first + static_cast<int>(threadIdx.x) * kPlaceSlots;
  if (threadIdx.x >= kPlaces || slot >= place.slots) return;
  const SlotPlace at = PlaceOf(task.kv, task.blocks, place.block_begin, slot);
  const std::byte* keys = at.page + layout.KeyBase(task.kv.layer_in_unit, blockIdx.y);
  const std::byte* values = at.page + layout.ValueBase(task.kv.layer_in_unit, blockIdx.y);
  s.places[threadIdx.x] = {keys + layout.KeyElement(at.offset, 0),
                           values + layout.ValueElement(at.offset, 0),
                           reinterpret_cast<const float*>(keys + layout.KeyScale(at.offset)),
                           reinterpret_cast<const float*>(values + layout.ValueScale(at.offset))};
}

// scores[h][i] = scale * q_h . k_i for the slots that the row sees, else -inf.
template <KvFormat kFormat>
__device__ void Score(const Task& task, const Scratch& s, int first, int group) {
  const KvLayout& layout = task.kv.layout;
  const RowPlace place = task.places[blockIdx.x];
  const int i = threadIdx.x % kAttentionBlock, slot = first + i;
  bool seen = slot < place.slots;
  if (seen) {
    const bool in_order = place.positions_begin == SequenceRows::kInOrder;
    const int position = in_order ? slot : task.slot_positions[place.positions_begin + slot];
    seen = position <= task.positions[blockIdx.x];
  }
  const int head_dim = layout.head_dim, in_place = i % kPlaceSlots;
  for (int h = threadIdx.x / kAttentionBlock; h < group; h += kThreads / kAttentionBlock) {
    float score = kNegativeInfinity;
    if (seen) {
      const Place& at = s.places[i / kPlaceSlots];
      const float dot =
          DotKey<kFormat>(s.q + h * head_dim, at.keys + layout.KeyElement(in_place, 0), head_dim);
      score = dot * task.scale;
      if constexpr (kFormat != KvFormat::kBf16) score *= at.key_scales[in_place];
    }
    s.scores[h * kAttentionBlock + i] = score;
  }
}

// What the value stored in slot i of the block is multiplied with, at probability p. Not even the
// NaN of a slot that is not seen may matter.
template <KvFormat kFormat>
__device__ float ValueFactor(const Scratch& s, int i, float p) {
  if constexpr (kFormat == KvFormat::kBf16) return p;
  return p == 0 ? 0 : p * s.places[i / kPlaceSlots].value_scales[i % kPlaceSlots];
}

// Scores to probabilities relative to the new maximum; one warp per head.
template <KvFormat kFormat>
__device__ void Normalise(const Scratch& s, int group) {
  const int lane = threadIdx.x % kWarp;
  for (int h = threadIdx.x / kWarp; h < group; h += kWarps) {
    float* scores = s.scores + h * kAttentionBlock;
    const float a = scores[lane], b = scores[lane + kWarp], before = s.maximum[h];
    const float maximum = fmaxf(before, WarpMax(fmaxf(a, b)));
    // Nothing seen yet: all probabilities are 0, not NaN.
    const bool none = maximum == kNegativeInfinity;
    const float pa = none ? 0 : expf(a - maximum), pb = none ? 0 : expf(b - maximum);
    const float factor = none ? 1 : expf(before - maximum);
    const float sum = s.sum[h] * factor + WarpSum(pa + pb);
    scores[lane] = ValueFactor<kFormat>(s, lane, pa);
    scores[lane + kWarp] = ValueFactor<kFormat>(s, lane + kWarp, pb);
    __syncwarp();  // every lane has read the old maximum and sum
    if (lane == 0) {
      s.maximum[h] = maximum;
      s.sum[h] = sum;
      s.factor[h] = factor;
    }
  }
}

// acc = acc * factor + factors . V; a thread owns columns of V. What lies
// in a slot of probability 0 counts as 0: not even the NaN of a token not seen may matter.
template <KvFormat kFormat>
__device__ void Accumulate(const Task& task, const Scratch& s, int first, int group) {
  const KvLayout& layout = task.kv.layout;
  const int head_dim = layout.head_dim;
  const int count = min(kAttentionBlock, task.places[blockIdx.x].slots - first);
  for (int d = threadIdx.x; d < head_dim; d += kThreads) {
    for (int h = 0; h < group; ++h) {
      float& acc = s.acc[h * head_dim + d];
      float sum = acc * s.factor[h];
      for (int begin = 0; begin < count; begin += kPlaceSlots) {
        const std::byte* values = s.places[begin / kPlaceSlots].values;
        const float* p = s.scores + h * kAttentionBlock + begin;
        const int end = min(kPlaceSlots, count - begin);
        for (int i = 0; i < end; i += 2) {
          const Pair pair = PairAt<kFormat>(values + layout.ValueElement(i, d));
          sum = fmaf(p[i], p[i] == 0 ? 0 : pair.first, sum);
          sum = fmaf(p[i + 1], p[i + 1] == 0 ? 0 : pair.second, sum);
        }
      }
      acc = sum;
    }
  }
}

// Eight blocks to a multiprocessor leave 64 registers a thread.
template <KvFormat kFormat>
__global__ void __launch_bounds__(kThreads, 8) Attention(Task task) {
  extern __shared__ float memory[];
  __shared__ Place places[kPlaces];
  const int64_t row = blockIdx.x;
  const int head_dim = task.kv.layout.head_dim, sharing = task.heads / task.kv.layout.kv_heads;
  const int skipped = static_cast<int>(blockIdx.z) * kGroup, group = min(kGroup, sharing - skipped);
  const int slots = task.places[row].slots;
  const int first_head = static_cast<int>(blockIdx.y) * sharing + skipped;
  const Scratch s(memory, places, group, head_dim);
  for (int i = threadIdx.x; i < group * head_dim; i += kThreads) {
    s.q[i] = FromBf16(task.q.data[row * task.q.stride + first_head * head_dim + i]);
    s.acc[i] = 0;
  }
  for (int h = threadIdx.x; h < group; h += kThreads) {
    s.maximum[h] = kNegativeInfinity;
    s.sum[h] = 0;
  }
  __syncthreads();
  for (int first = 0; first < slots; first += kAttentionBlock) {
    FindPlaces(task, s, first);
    __syncthreads();
    Score<kFormat>(task, s, first, group);
    __syncthreads();
    Normalise<kFormat>(s, group);
    __syncthreads();
    Accumulate<kFormat>(task, s, first, group);
    __syncthreads();
  }
  for (int i = threadIdx.x; i < group * head_dim; i += kThreads) {
    const float sum = s.sum[i / head_dim];
    task.out.data[row * task.out.stride + first_head * head_dim + i] =
        RoundToBf16(sum == 0 ? 0 : s.acc[i] / sum);
  }
  if (task.lse == nullptr) return;
  for (int h = threadIdx.x; h < group; h += kThreads) {
    task.lse[row * task.heads + first_head + h] =
        s.sum[h] == 0 ? kNegativeInfinity : s.maximum[h] + logf(s.sum[h]);
  }
}

}  // namespace

void LaunchAttention(Stream stream, const AttentionArgs& args, const AttentionRows& rows,
                     const DeviceRows& device_rows, const KvLayer& kv) {
  const Task task = {args.q,
                     args.out,
                     args.lse,
                     args.heads,
                     args.scale,
                     rows.positions,
                     rows.blocks,
                     rows.slot_positions,
                     device_rows.places,
                     kv};
  const int kv_heads = kv.layout.kv_heads, sharing = args.heads / kv_heads;
  const dim3 grid(static_cast<unsigned>(device_rows.count), static_cast<unsigned>(kv_heads),
                  static_cast<unsigned>((sharing + kGroup - 1) / kGroup));
  const size_t shared = sizeof(float) * static_cast<size_t>(std::min(sharing, kGroup)) *
                        static_cast<size_t>(2 * kv.layout.head_dim + kAttentionBlock + 3);
  ForKvFormat(kv.layout.format, [&]<KvFormat kFormat>() {
    Attention<kFormat><<<grid, kThreads, shared, stream>>>(task);
  });
}

}  // namespace skim::cuda
