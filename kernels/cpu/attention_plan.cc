#include "kernels/cpu/attention_plan.h"

namespace skim {
namespace {

int64_t CeilDiv(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Reading a block of K/V from memory costs about as much as this many rows of arithmetic.
constexpr int64_t kReadCost = 12;

// A tile is cut across threads only where that evens out the load: below this share of a
// thread's work it goes to one side or the other.
constexpr int64_t kSmallShare = 8;

}  // namespace

AttentionPlan::AttentionPlan(const AttentionArgs& args, const AttentionRows& rows,
                             const KvLayer& kv)
    : rows_(rows), kv_heads_(kv.layout.kv_heads), group_(args.heads / kv_heads_) {
  tile_heads_ = std::min(group_, kTileRows);
  tile_tokens_ = kTileRows / tile_heads_;
  for (const SequenceRows& sequence : rows_.sequences) {
    tiles_ += TilesOf(sequence);
    max_rows_ = std::max(max_rows_, std::min(sequence.row_count, tile_tokens_) * tile_heads_);
  }
  ForTiles(0, tiles_ - 1, [&](int64_t, const TileSpec& tile) { cost_ += tile.cost; });
}

int64_t AttentionPlan::TilesOf(const SequenceRows& sequence) const {
  return kv_heads_ * CeilDiv(group_, tile_heads_) * CeilDiv(sequence.row_count, tile_tokens_);
}

TileSpec AttentionPlan::MakeTile(const SequenceRows& sequence, int64_t index) const {
  const int64_t row_tiles = CeilDiv(sequence.row_count, tile_tokens_);
  const int64_t head_tiles = CeilDiv(group_, tile_heads_);
  TileSpec tile;
  tile.sequence = &sequence;
  tile.kv_head = static_cast<int>(index / row_tiles / head_tiles);
  const int skipped_heads = static_cast<int>(index / row_tiles % head_tiles) * tile_heads_;
  tile.first_head = tile.kv_head * group_ + skipped_heads;
  tile.heads = std::min(tile_heads_, group_ - skipped_heads);
  const int skipped_rows = static_cast<int>(index % row_tiles) * tile_tokens_;
  tile.first_row = sequence.row_begin + skipped_rows;
  tile.tokens = std::min(tile_tokens_, sequence.row_count - skipped_rows);
  tile.slots = sequence.slots;
  if (sequence.positions_begin == SequenceRows::kInOrder) {
    const int32_t last = rows_.positions[tile.first_row + tile.tokens - 1];
    tile.slots = static_cast<int>(std::min<int64_t>(tile.slots, int64_t{last} + 1));
  }
  tile.spans = static_cast<int>(std::max<int64_t>(1, CeilDiv(tile.slots, kAttentionSpan)));
  tile.cost = CeilDiv(tile.slots + 1, kAttentionBlock) * (tile.rows() + kReadCost);
  return tile;
}

void AttentionPlan::Cut(int threads, std::vector<PlanCut>& cuts) const {
  cuts.assign(threads + 1, PlanCut{tiles_, 0});
  cuts[0] = {};
  int next = 1;
  int64_t before = 0;
  ForTiles(0, tiles_ - 1, [&](int64_t index, const TileSpec& tile) {
    for (; next < threads; ++next) {
      const int64_t offset = cost_ * next / threads - before;
      if (offset >= tile.cost) break;
      if (tile.cost * kSmallShare * threads <= cost_) {
        cuts[next] = {index + (2 * offset >= tile.cost ? 1 : 0), 0};
      } else {
        cuts[next] = {index, static_cast<int>(tile.spans * offset / tile.cost)};
      }
    }
    before += tile.cost;
  });
}

}  // namespace skim
