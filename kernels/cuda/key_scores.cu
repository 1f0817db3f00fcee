// Scores of cached keys and the choice of the best: what token pruning is made of (LazyLLM,
// arXiv 2407.14057, equation 1).
#include "kernels/cuda/block_select.cuh"
#include "kernels/cuda/kv_read.cuh"
#include "kernels/cuda/launch.h"

namespace skim::cuda {
namespace {

constexpr float kInfinity = __builtin_inff();

// ---- KeyScores: a block per array, target and block of slots ----

constexpr int kSharing = 2;  // threads of one slot: each takes every second query
constexpr int kThreads = kSharing * kAttentionBlock;
constexpr int kTile = 8;  // queries in shared memory at one time

struct Scoring {
  Matrix<const Bf16> q;
  const float* lse;
  const int32_t* scored_heads;  // null: the mean over all heads
  int heads;
  float scale;
  const int32_t* positions;
  const PageId* blocks;
  const int32_t* slot_positions;
  KvLayer kv;
};

// Queries of the window that look at one KV head.
struct Queries {
  int first_row, rows;
  int first_head, heads;
  __device__ int count() const { return rows * heads; }
};

struct Tile {
  float lse[kTile];
  int32_t position[kTile];
};

// `q` is [kTile][head_dim].
__device__ void LoadTile(const Scoring& s, const Queries& queries, int first, int count, Tile& tile,
                         float* q) {
  const int head_dim = s.kv.layout.head_dim;
  for (int i = threadIdx.x; i < count * head_dim; i += kThreads) {
    const int query = first + i / head_dim;
    const int64_t row = queries.first_row + query / queries.heads;
    const int head = queries.first_head + query % queries.heads;
    q[i] = FromBf16(s.q.data[row * s.q.stride + head * head_dim + i % head_dim]);
  }
  if (threadIdx.x < count) {
    const int query = first + static_cast<int>(threadIdx.x);
    const int64_t row = queries.first_row + query / queries.heads;
    tile.lse[threadIdx.x] = s.lse[row * s.heads + queries.first_head + query % queries.heads];
    tile.position[threadIdx.x] = s.positions[row];
  }
}

template <KvFormat kFormat>
__global__ void __launch_bounds__(kThreads, 8) KeyScores(Scoring s, const KeyScoreTask* tasks) {
  extern __shared__ float tile_q[];
  __shared__ Tile tile;
  __shared__ float partial[kSharing][kAttentionBlock];
  const KeyScoreTask task = tasks[blockIdx.y];
  if (static_cast<int>(blockIdx.x) * kAttentionBlock >= task.slots) return;
  const KvLayout& layout = s.kv.layout;
  const int i = threadIdx.x % kAttentionBlock, part = threadIdx.x / kAttentionBlock;
  const int slot = static_cast<int>(blockIdx.x) * kAttentionBlock + i;
  const bool used = slot < task.slots;
  SlotPlace place = {};
  int position = INT32_MAX;
  if (used) {
    place = PlaceOf(s.kv, s.blocks, task.block_begin, slot);
    const bool in_order = task.positions_begin == SequenceRows::kInOrder;
    position = in_order ? slot : s.slot_positions[task.positions_begin + slot];
  }
  const int sharing = s.heads / layout.kv_heads;
  const bool one_head = s.scored_heads != nullptr;
  const int head = one_head ? s.scored_heads[blockIdx.z] : 0;
  const int kv_begin = one_head ? head / sharing : 0;
  const int kv_end = one_head ? kv_begin + 1 : layout.kv_heads;
  float sum = 0;
  for (int kv_head = kv_begin; kv_head < kv_end; ++kv_head) {
    const Queries queries = {task.first_row, task.rows, one_head ? head : kv_head * sharing,
                             one_head ? 1 : sharing};
    const std::byte* key = used ? place.page + layout.KeyBase(s.kv.layer_in_unit, kv_head) +
                                      layout.KeyElement(place.offset, 0)
                                : nullptr;
    const float scale = used ? s.scale * KeyScaleAt<kFormat>(s.kv, kv_head, place) : 0;
    for (int first = 0; first < queries.count(); first += kTile) {
      const int count = min(kTile, queries.count() - first);
      __syncthreads();  // the tile before has been read
      LoadTile(s, queries, first, count, tile, tile_q);
      __syncthreads();
      for (int n = part; n < count; n += kSharing) {
        // INT32_MAX, too, is after every row.
        if (position > tile.position[n]) continue;
        const float dot = DotKey<kFormat>(tile_q + n * layout.head_dim, key, layout.head_dim);
        sum += expf(dot * scale - tile.lse[n]);
      }
    }
  }
  partial[part][i] = sum;
  __syncthreads();
  if (part != 0 || !used) return;
  for (int other = 1; other < kSharing; ++other) sum += partial[other][i];
  const int terms = task.rows * (one_head ? 1 : s.heads);
  task.scores[int64_t{blockIdx.z} * task.slots + slot] = sum / static_cast<float>(terms);
}

// ---- PoolScores: one block ----

__device__ float BlockMaximum(float mine, float (&scratch)[kSampleThreads / kWarp]) {
  mine = WarpMax(mine);
  __syncthreads();
  if (threadIdx.x % kWarp == 0) scratch[threadIdx.x / kWarp] = mine;
  __syncthreads();
  for (const float other : scratch) mine = fmaxf(mine, other);
  return mine;
}

__global__ void __launch_bounds__(kSampleThreads) PoolScores(PoolScoresArgs args, float* summed) {
  __shared__ float scratch[kSampleThreads / kWarp];
  for (int64_t p = threadIdx.x; p < args.positions; p += kSampleThreads) summed[p] = -kInfinity;
  __syncthreads();
  for (int a = 0; a < args.arrays; ++a) {
    const float* scores = args.scores + a * args.slots;
    float factor = 1;
    if (args.normalize) {
      float largest = 0;
      for (int64_t slot = threadIdx.x; slot < args.slots; slot += kSampleThreads) {
        largest = fmaxf(largest, scores[slot]);
      }
      largest = BlockMaximum(largest, scratch);
      factor = largest > 0 ? 1 / largest : 0;
    }
    for (int64_t slot = threadIdx.x; slot < args.slots; slot += kSampleThreads) {
      const int64_t position =
          args.slot_positions == nullptr ? slot : int64_t{args.slot_positions[slot]};
      if (position >= args.positions) continue;
      // Not fused: the order of nearly equal scores is to be the CPU's.
      const float before = a == 0 ? 0 : summed[position];
      summed[position] = __fadd_rn(before, __fmul_rn(scores[slot], factor));
    }
  }
  __syncthreads();
  for (int64_t p = threadIdx.x; p < args.positions; p += kSampleThreads) {
    float best = summed[p];
    if (best != -kInfinity) {
      const int64_t begin = max(int64_t{0}, p - args.radius);
      const int64_t end = min(args.positions, p + args.radius + 1);
      for (int64_t other = begin; other < end; ++other) {
        if (summed[other] > best) best = summed[other];
      }
    }
    args.pooled[p] = best;
  }
}

// ---- TopRows: one block ----

__global__ void __launch_bounds__(kSampleThreads)
    TopRows(TopRowsArgs args, const IndexRange* forced, int forced_count) {
  __shared__ BlockScratch block;
  __shared__ SelectScratch select;
  const auto rows = static_cast<int32_t>(args.rows);
  const auto order = [&](int32_t row) {
    for (int i = 0; i < forced_count; ++i) {
      if (row >= forced[i].begin && row < forced[i].end) return ~uint32_t{0};
    }
    const float score = args.scores[row];
    return isnan(score) ? 0 : OrderOf(score);
  };
  const auto value = [&](int32_t row) {
    return Mass{args.allowed == nullptr || args.allowed[row] != 0};
  };
  const Cutoff cutoff =
      BlockSelect(rows, static_cast<Mass>(args.count), order, value, block, select);
  const auto taken = [&](int32_t row) { return value(row) != 0 && cutoff.Takes(order(row), row); };
  const Share share(rows);
  Mass mine = 0, total;
  for (int32_t row = share.begin; row < share.end; ++row) mine += taken(row);
  Mass at = BlockPrefix(mine, block, &total);
  for (int32_t row = share.begin; row < share.end; ++row) {
    if (taken(row)) args.out[at++] = row;
  }
}

}  // namespace

void LaunchKeyScores(LaunchQueue& queue, const KeyScoresArgs& args, const DeviceTargets& targets,
                     const AttentionRows& rows, const KvLayer& kv) {
  const Scoring scoring = {args.q,     args.lse,       targets.scored_heads, args.heads,
                           args.scale, rows.positions, rows.blocks,          rows.slot_positions,
                           kv};
  const size_t arrays = args.scored_heads.empty() ? 1 : args.scored_heads.size();
  const dim3 grid(
      static_cast<unsigned>((targets.most_slots + kAttentionBlock - 1) / kAttentionBlock),
      static_cast<unsigned>(args.targets.size()), static_cast<unsigned>(arrays));
  const size_t shared = sizeof(float) * kTile * static_cast<size_t>(kv.layout.head_dim);
  ForKvFormat(kv.layout.format, [&]<KvFormat kFormat>() {
    queue.Add(KeyScores<kFormat>, grid, kThreads, shared, scoring, targets.tasks);
  });
}

void LaunchPoolScores(LaunchQueue& queue, const PoolScoresArgs& args, float* summed) {
  queue.Add(PoolScores, 1, kSampleThreads, 0, args, summed);
}

void LaunchTopRows(LaunchQueue& queue, const TopRowsArgs& args, const IndexRange* forced) {
  queue.Add(TopRows, 1, kSampleThreads, 0, args, forced, static_cast<int>(args.forced.size()));
}

}  // namespace skim::cuda
