// How the attention of a step is cut into tiles and shared out. Every thread walks the same
// list of tiles and takes its stretch; a stretch may begin or end at a span inside a tile.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "kernels/ops.h"

namespace skim {

inline constexpr int kAttentionSpan = 512;  // slots, a multiple of kAttentionBlock

// Rows of one sequence and query heads of one KV head: each K/V load serves all of them.
struct TileSpec {
  const SequenceRows* sequence;
  int kv_head;
  int first_head, heads;  // query heads
  int first_row, tokens;  // rows of the step
  int slots;              // in use and visible to some row of the tile
  int spans;              // at least 1
  int64_t cost;           // in (row, block) units

  int rows() const { return tokens * heads; }
};

// A place between two spans: before span `span` of tile `tile`.
struct PlanCut {
  int64_t tile = 0;
  int span = 0;
};

class AttentionPlan {
 public:
  static constexpr int kTileRows = 48;

  // Borrows its arguments.
  AttentionPlan(const AttentionArgs& args, const AttentionRows& rows, const KvLayer& kv);

  int max_rows() const { return max_rows_; }

  // Fills cuts[0 .. threads]: thread t works from cuts[t] to cuts[t + 1].
  void Cut(int threads, std::vector<PlanCut>& cuts) const;

  // Calls visit(index, tile) in order, for tiles `begin` up to `end`, both included.
  template <typename Visit>
  void ForTiles(int64_t begin, int64_t end, const Visit& visit) const {
    int64_t first = 0;  // index of the sequence's first tile
    for (const SequenceRows& sequence : rows_.sequences) {
      const int64_t count = TilesOf(sequence);
      const int64_t from = std::max(begin, first), to = std::min(end, first + count - 1);
      for (int64_t i = from; i <= to; ++i) visit(i, MakeTile(sequence, i - first));
      first += count;
      if (first > end) return;
    }
  }

 private:
  int64_t TilesOf(const SequenceRows& sequence) const;
  TileSpec MakeTile(const SequenceRows& sequence, int64_t index) const;

  const AttentionRows& rows_;
  int kv_heads_;
  int group_;       // query heads per KV head
  int tile_heads_;  // of those, in one tile
  int tile_tokens_;
  int max_rows_ = 0;
  int64_t tiles_ = 0;
  int64_t cost_ = 0;
};

}  // namespace skim
