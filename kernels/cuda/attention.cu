// Paged attention on tensor cores, for tiles of prompts and for single rows. A block takes a tile
// of (row, query head) pairs of one sequence and KV head, 16 of them to a warp, and goes through
// the slots in tiles of kAttentionBlock: while it multiplies with the keys, the values are on their
// way, and the other way round. Softmax runs over splits of kSplitSlots, which are merged in order:
// by the block that did them all or, where blocks are few, by CombineSplits from what one block
// for each split has left.
//
// Every pair is computed by the same operations in the same order, however large its tile is,
// whatever else is in it and whoever merges. What a pair does not see changes nothing: it is
// multiplied with a probability of 0 and added to sums that are never -0 in the end.
#include <algorithm>

#include "kernels/cuda/attention_block.cuh"
#include "kernels/cuda/launch.h"

namespace skim::cuda {
namespace {

constexpr int kLargeWarps = kLargeAttentionTile / kWarpPairs;
constexpr int kSmallWarps = kSmallAttentionTile / kWarpPairs;
// With fewer warps than this a device of a hundred multiprocessors is not full. It also bounds what
// splits need of memory.
constexpr int64_t kFewWarps = 256;
constexpr int kCombineThreads = 128;

// Bounds that leave enough registers for the sums: those that ptxas would choose make it spill for
// sm_100.
template <int kDim, int kWarps>
inline constexpr int kMinBlocks = kWarps == kSmallWarps ? 8
                                  : kDim <= 128         ? 3
                                                        : 2;

template <KvFormat kFormat, int kDim, int kWarps, typename>
__global__ void __launch_bounds__(kWarps* kWarp, kMinBlocks<kDim, kWarps>)
    Attention(AttentionTask task) {
  extern __shared__ uint4 memory[];
  AttentionBlock<kFormat, kDim, kWarps>(
      task, *reinterpret_cast<AttentionMemory<kFormat, kDim, kWarps>*>(memory))
      .Run();
}

// A block per tile, KV head and pair.
__global__ void __launch_bounds__(kCombineThreads) CombineSplits(AttentionTask task) {
  const AttentionTile tile = task.tiles[blockIdx.x];
  if (static_cast<int>(blockIdx.z) >= tile.pairs) return;
  const TilePair at(task, tile, blockIdx.z);
  const int head_dim = task.kv.layout.head_dim;
  const int splits = (VisibleSlots(task, tile) + kSplitSlots - 1) / kSplitSlots;
  for (int d = threadIdx.x; d < head_dim; d += kCombineThreads) {
    float maximum = kNegativeInfinity, sum = 0, weighted = 0;
    for (int split = 0; split < splits; ++split) {
      const AttentionPart part(task, at.row, at.head, split);
      const SplitMerge merge(maximum, part.state[0]);
      sum = merge(sum, part.state[1]);
      weighted = merge(weighted, part.sums[d]);
      maximum = merge.maximum;
    }
    task.out.data[at.row * task.out.stride + at.head * head_dim + d] =
        RoundToBf16(Mean(weighted, Inverse(sum)));
    if (d != 0 || task.lse == nullptr) continue;
    task.lse[at.row * task.heads + at.head] = LogSumExp(maximum, sum);
  }
}

int SplitsOf(const DeviceRows& rows) { return (rows.most_slots + kSplitSlots - 1) / kSplitSlots; }

// Whether a block does one split of a tile.
bool OneSplit(const DeviceRows& rows, const AttentionTiles& tiles, const KvLayout& layout) {
  const int64_t warps = int64_t{tiles.large} * kLargeWarps + tiles.small;
  return SplitsOf(rows) > 1 && warps * layout.kv_heads < kFewWarps;
}

template <KvFormat kFormat, int kDim, int kWarps>
void Launch(LaunchQueue& queue, const AttentionTask& task, dim3 grid) {
  using Shared = DynamicShared<sizeof(AttentionMemory<kFormat, kDim, kWarps>)>;
  LaunchWithShared<Shared>(Attention<kFormat, kDim, kWarps, Shared>, grid, kWarps * kWarp, queue,
                           task);
}

template <int kWarps>
void LaunchTiles(LaunchQueue& queue, AttentionTask task, const DeviceRows& rows,
                 const AttentionTile* tiles, int32_t count) {
  if (count == 0) return;
  const KvLayout& layout = task.kv.layout;
  task.tiles = tiles;
  const auto blocks = static_cast<unsigned>(count), heads = static_cast<unsigned>(layout.kv_heads);
  const dim3 grid(blocks, heads, task.one_split ? static_cast<unsigned>(SplitsOf(rows)) : 1);
  ForKvFormat(layout.format, [&]<KvFormat kFormat>() {
    if (layout.head_dim <= 64) return Launch<kFormat, 64, kWarps>(queue, task, grid);
    if (layout.head_dim <= 128) return Launch<kFormat, 128, kWarps>(queue, task, grid);
    Launch<kFormat, kAttentionHeadDim, kWarps>(queue, task, grid);
  });
  if (!task.one_split) return;
  queue.Add(CombineSplits, dim3(blocks, heads, kWarps * kWarpPairs), kCombineThreads, 0, task);
}

}  // namespace

int64_t AttentionPartFloats(int heads, const DeviceRows& rows, const AttentionTiles& tiles,
                            const KvLayout& layout) {
  const int splits = SplitsOf(rows);
  if (splits <= 1) return 0;
  const int parts = OneSplit(rows, tiles, layout) ? splits : 1;
  return rows.count * heads * parts * AttentionPart::Floats(layout.head_dim);
}

void LaunchAttention(LaunchQueue& queue, const AttentionArgs& args, const AttentionRows& rows,
                     const DeviceRows& device_rows, const AttentionTiles& tiles, const KvLayer& kv,
                     float* parts) {
  const int64_t of_pair = int64_t{args.heads} * AttentionPart::Floats(kv.layout.head_dim);
  AttentionTask task = {args.q,      args.out,
                        args.lse,    args.heads,
                        args.scale,  rows.positions,
                        rows.blocks, rows.slot_positions,
                        nullptr,     kv};
  task.one_split = OneSplit(device_rows, tiles, kv.layout);
  task.parts = parts;
  task.parts_of_pair = static_cast<int>(
      AttentionPartFloats(args.heads, device_rows, tiles, kv.layout) / device_rows.count / of_pair);
  LaunchTiles<kLargeWarps>(queue, task, device_rows, tiles.tiles, tiles.large);
  LaunchTiles<kSmallWarps>(queue, task, device_rows, tiles.tiles + tiles.large, tiles.small);
}

}  // namespace skim::cuda
