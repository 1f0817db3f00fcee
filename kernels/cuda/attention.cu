// Paged attention, one block per row, KV head and up to kGroup of its query heads: K and V are
// read once for all of them. Softmax is accumulated over blocks of kAttentionBlock slots, as on the
// CPU, within splits of kSplitSlots; splits are merged in order. A block takes all splits of its
// row, or, where rows are few and long, one; then CombineSplits merges what the blocks leave. Both
// ways are the same operations, so prefill and decode compute a row alike whatever else is in the
// batch.
#include <algorithm>

#include "kernels/cuda/kv_read.cuh"
#include "kernels/cuda/launch.h"

namespace skim::cuda {
namespace {

constexpr int kWarps = 4;
constexpr int kThreads = kWarps * kWarp;
constexpr int kGroup = 8;  // query heads of a block, which bounds its shared memory
constexpr int kSplitSlots = 512;
// With fewer blocks than this a device of a hundred multiprocessors is not full.
constexpr int64_t kFewBlocks = 256;
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
  int chunks;    // of the query heads of a KV head
  int splits;    // of the longest row
  float* parts;  // [row][head][splits] of Part, for one split a block
};

__device__ int SplitsOf(const RowPlace& place) {
  return (place.slots + kSplitSlots - 1) / kSplitSlots;
}

// What a split leaves: the maximum of its scores, the sum of its probabilities relative to that
// maximum, and head_dim weighted sums of values.
__device__ float* PartOf(const Task& task, int64_t row, int head, int split) {
  const int64_t index = (row * task.heads + head) * task.splits + split;
  return task.parts + index * (task.kv.layout.head_dim + 2);
}

// How the state of some splits and that of the next one become one.
struct Merge {
  float maximum, keep, add;

  __device__ Merge(float before, float next) : maximum(fmaxf(before, next)) {
    // Nothing seen so far: NaN otherwise.
    keep = before == kNegativeInfinity ? 0 : expf(before - maximum);
    add = next == kNegativeInfinity ? 0 : expf(next - maximum);
  }
  __device__ float operator()(float before, float next) const {
    return fmaf(next, add, __fmul_rn(before, keep));
  }
};

__device__ void Finish(const Task& task, int64_t row, int head, int d, float maximum, float sum,
                       float acc) {
  task.out.data[row * task.out.stride + head * task.kv.layout.head_dim + d] =
      RoundToBf16(sum == 0 ? 0 : acc / sum);
  if (task.lse == nullptr || d != 0) return;
  task.lse[row * task.heads + head] = sum == 0 ? kNegativeInfinity : maximum + logf(sum);
}

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
  // The same of all splits so far.
  float* total_acc;
  float* total_maximum;
  float* total_sum;

  static constexpr int64_t Floats(int group, int head_dim) {
    return group * int64_t{3 * head_dim + kAttentionBlock + 5};
  }

  __device__ Scratch(float* memory, Place (&places_of_block)[kPlaces], int group, int head_dim)
      : places(places_of_block),
        q(memory),
        acc(q + group * head_dim),
        scores(acc + group * head_dim),
        maximum(scores + group * kAttentionBlock),
        sum(maximum + group),
        factor(sum + group),
        total_acc(factor + group),
        total_maximum(total_acc + group * head_dim),
        total_sum(total_maximum + group) {}
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

// Leaves the state of one split in s.
template <KvFormat kFormat>
__device__ void Attend(const Task& task, const Scratch& s, int split, int group) {
  const int head_dim = task.kv.layout.head_dim, slots = task.places[blockIdx.x].slots;
  for (int i = threadIdx.x; i < group * head_dim; i += kThreads) s.acc[i] = 0;
  for (int h = threadIdx.x; h < group; h += kThreads) {
    s.maximum[h] = kNegativeInfinity;
    s.sum[h] = 0;
  }
  const int begin = split * kSplitSlots, end = min(begin + kSplitSlots, slots);
  for (int first = begin; first < end; first += kAttentionBlock) {
    FindPlaces(task, s, first);
    __syncthreads();
    Score<kFormat>(task, s, first, group);
    __syncthreads();
    Normalise<kFormat>(s, group);
    __syncthreads();
    Accumulate<kFormat>(task, s, first, group);
    __syncthreads();
  }
}

// Eight blocks to a multiprocessor leave 64 registers a thread.
template <KvFormat kFormat, bool kOneSplit>
__global__ void __launch_bounds__(kThreads, 8) Attention(Task task) {
  extern __shared__ float memory[];
  __shared__ Place places[kPlaces];
  const int64_t row = blockIdx.x;
  const int head_dim = task.kv.layout.head_dim, sharing = task.heads / task.kv.layout.kv_heads;
  const int skipped = static_cast<int>(blockIdx.z) % task.chunks * kGroup;
  const int group = min(kGroup, sharing - skipped);
  const int first_head = static_cast<int>(blockIdx.y) * sharing + skipped;
  const int splits = SplitsOf(task.places[row]);
  const int only = static_cast<int>(blockIdx.z) / task.chunks;
  if (kOneSplit && only >= splits) return;
  const Scratch s(memory, places, group, head_dim);
  for (int i = threadIdx.x; i < group * head_dim; i += kThreads) {
    s.q[i] = FromBf16(task.q.data[row * task.q.stride + first_head * head_dim + i]);
    s.total_acc[i] = 0;
  }
  for (int h = threadIdx.x; h < group; h += kThreads) {
    s.total_maximum[h] = kNegativeInfinity;
    s.total_sum[h] = 0;
  }
  if constexpr (kOneSplit) {
    Attend<kFormat>(task, s, only, group);
    for (int i = threadIdx.x; i < group * head_dim; i += kThreads) {
      const int h = i / head_dim;
      float* part = PartOf(task, row, first_head + h, only);
      part[2 + i % head_dim] = s.acc[i];
      if (i % head_dim != 0) continue;
      part[0] = s.maximum[h];
      part[1] = s.sum[h];
    }
  } else {
    for (int split = 0; split < splits; ++split) {
      Attend<kFormat>(task, s, split, group);
      for (int i = threadIdx.x; i < group * head_dim; i += kThreads) {
        const Merge merge(s.total_maximum[i / head_dim], s.maximum[i / head_dim]);
        s.total_acc[i] = merge(s.total_acc[i], s.acc[i]);
      }
      __syncthreads();
      for (int h = threadIdx.x; h < group; h += kThreads) {
        const Merge merge(s.total_maximum[h], s.maximum[h]);
        s.total_sum[h] = merge(s.total_sum[h], s.sum[h]);
        s.total_maximum[h] = merge.maximum;
      }
      __syncthreads();
    }
    // No split, no barrier so far.
    if (splits == 0) __syncthreads();
    for (int i = threadIdx.x; i < group * head_dim; i += kThreads) {
      const int h = i / head_dim;
      Finish(task, row, first_head + h, i % head_dim, s.total_maximum[h], s.total_sum[h],
             s.total_acc[i]);
    }
  }
}

// A block per row and head.
__global__ void __launch_bounds__(kThreads) CombineSplits(Task task) {
  const int64_t row = blockIdx.x;
  const int head = blockIdx.y, splits = SplitsOf(task.places[row]);
  for (int d = threadIdx.x; d < task.kv.layout.head_dim; d += kThreads) {
    float maximum = kNegativeInfinity, sum = 0, acc = 0;
    for (int split = 0; split < splits; ++split) {
      const float* part = PartOf(task, row, head, split);
      const Merge merge(maximum, part[0]);
      sum = merge(sum, part[1]);
      acc = merge(acc, part[2 + d]);
      maximum = merge.maximum;
    }
    Finish(task, row, head, d, maximum, sum, acc);
  }
}

}  // namespace

int64_t AttentionPartFloats(int heads, const DeviceRows& rows, const KvLayout& layout) {
  const int64_t splits = (int64_t{rows.most_slots} + kSplitSlots - 1) / kSplitSlots;
  const int64_t chunks = (heads / layout.kv_heads + kGroup - 1) / kGroup;
  if (splits <= 1 || rows.count * layout.kv_heads * chunks >= kFewBlocks) return 0;
  return rows.count * heads * splits * (layout.head_dim + 2);
}

void LaunchAttention(Stream stream, const AttentionArgs& args, const AttentionRows& rows,
                     const DeviceRows& device_rows, const KvLayer& kv, float* parts) {
  const int kv_heads = kv.layout.kv_heads, sharing = args.heads / kv_heads;
  const Task task = {args.q,
                     args.out,
                     args.lse,
                     args.heads,
                     args.scale,
                     rows.positions,
                     rows.blocks,
                     rows.slot_positions,
                     device_rows.places,
                     kv,
                     (sharing + kGroup - 1) / kGroup,
                     (device_rows.most_slots + kSplitSlots - 1) / kSplitSlots,
                     parts};
  const auto count = static_cast<unsigned>(device_rows.count);
  const dim3 grid(count, static_cast<unsigned>(kv_heads),
                  static_cast<unsigned>(task.chunks * (parts == nullptr ? 1 : task.splits)));
  const auto shared = sizeof(float) * static_cast<size_t>(Scratch::Floats(std::min(sharing, kGroup),
                                                                          kv.layout.head_dim));
  ForKvFormat(kv.layout.format, [&]<KvFormat kFormat>() {
    auto* kernel = parts == nullptr ? Attention<kFormat, false> : Attention<kFormat, true>;
    kernel<<<grid, kThreads, shared, stream>>>(task);
  });
  if (parts == nullptr) return;
  CombineSplits<<<dim3(count, static_cast<unsigned>(args.heads)), kThreads, 0, stream>>>(task);
}

}  // namespace skim::cuda
