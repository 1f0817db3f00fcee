#include "kernels/cpu/key_scores.h"

#include <algorithm>
#include <cstring>
#include <numbers>

#include "base/check.h"
#include "kernels/cpu/attention_kernels.h"
#include "kernels/cpu/kv_blocks.h"

namespace skim {
namespace {

// Rows that share a read of the keys.
constexpr int kTileRows = 48;

int RoundUp(int n, int to) { return (n + to - 1) / to * to; }

// One thread's scratch: a tile of queries and its scores.
class Scorer {
 public:
  static int64_t Floats(int head_dim) {
    const int64_t stride = RoundUp(head_dim, 4), columns = RoundUp(head_dim, 16);
    return kTileRows * (stride / 2 + kAttentionBlock + 2) + 2 * kAttentionBlock +
           kAttentionBlock * columns / 2;
  }

  Scorer(const AttentionKernels& kernels, const KeyScoresArgs& args, const AttentionRows& rows,
         const KvLayer& kv, float* scratch)
      : kernels_(kernels), args_(args), rows_(rows), kv_(kv), blocks_(rows, kv) {
    const int head_dim = kv.layout.head_dim;
    tile_.head_dim = head_dim;
    tile_.q_stride = RoundUp(head_dim, 4);
    tile_.columns = RoundUp(head_dim, 16);
    tile_.scores = scratch;
    scratch += kTileRows * kAttentionBlock;
    tile_.expanded = reinterpret_cast<Bf16*>(scratch);
    scratch += kAttentionBlock * tile_.columns / 2;
    q_ = reinterpret_cast<Bf16*>(scratch);
    scratch += kTileRows * tile_.q_stride / 2;
    limit_ = reinterpret_cast<int32_t*>(scratch);
    log2_sum_ = scratch + kTileRows;
    positions_ = reinterpret_cast<int32_t*>(log2_sum_ + kTileRows);
    sums_ = log2_sum_ + kTileRows + kAttentionBlock;
    tile_.q = q_;
    tile_.limit = limit_;
    tile_.scale = args.scale * std::numbers::log2e_v<float>;
  }

  // The scores of the block of slots that begins at `slot`, all arrays.
  void Score(const KeyScoreTarget& target, int slot) {
    const SequenceRows& sequence = rows_.sequences[target.sequence];
    const int slots = std::min(kAttentionBlock, sequence.slots - slot);
    blocks_.Select(sequence, 0, sequence.slots);
    blocks_.Positions(slot, slots, positions_);
    const int group = args_.heads / kv_.layout.kv_heads;
    if (args_.scored_heads.empty()) {
      std::fill_n(sums_, kAttentionBlock, 0.0f);
      for (int kv_head = 0; kv_head < kv_.layout.kv_heads; ++kv_head) {
        AddHeads(target, sequence, kv_head, kv_head * group, group, slot, slots);
      }
      Write(target.scores + slot, slots, target.window * args_.heads);
      return;
    }
    float* out = target.scores + slot;
    for (const int32_t head : args_.scored_heads) {
      std::fill_n(sums_, kAttentionBlock, 0.0f);
      AddHeads(target, sequence, head / group, head, 1, slot, slots);
      Write(out, slots, target.window);
      out += sequence.slots;
    }
  }

 private:
  // Adds what the window's rows give through `heads` heads of one KV head.
  void AddHeads(const KeyScoreTarget& target, const SequenceRows& sequence, int kv_head,
                int first_head, int heads, int slot, int slots) {
    blocks_.Select(sequence, kv_head, sequence.slots);
    const BlockPlaces here = blocks_.At(slot);
    const AttentionBlock block = {here, here, slots, positions_};
    const int last = sequence.row_begin + sequence.row_count;
    tile_.rows = 0;
    for (int row = last - target.window; row < last; ++row) {
      for (int head = first_head; head < first_head + heads; ++head) {
        Bf16* q = q_ + tile_.rows * tile_.q_stride;
        std::copy_n(args_.q.Row(row) + head * tile_.head_dim, tile_.head_dim, q);
        std::fill(q + tile_.head_dim, q + tile_.q_stride, Bf16{});
        limit_[tile_.rows] = rows_.positions[row];
        log2_sum_[tile_.rows] =
            args_.lse[int64_t{row} * args_.heads + head] * std::numbers::log2e_v<float>;
        if (++tile_.rows == kTileRows) Flush(block);
      }
    }
    if (tile_.rows > 0) Flush(block);
  }

  void Flush(const AttentionBlock& block) {
    kernels_.Of(kv_.layout.format).score_block(tile_, block);
    kernels_.add_probabilities(tile_, block, log2_sum_, sums_);
    tile_.rows = 0;
  }

  void Write(float* out, int slots, int terms) const {
    for (int i = 0; i < slots; ++i) out[i] = sums_[i] / static_cast<float>(terms);
  }

  const AttentionKernels& kernels_;
  const KeyScoresArgs& args_;
  const AttentionRows& rows_;
  const KvLayer& kv_;
  KvBlocks blocks_;
  AttentionTile tile_ = {};
  Bf16* q_;
  int32_t* limit_;
  float* log2_sum_;
  int32_t* positions_;
  float* sums_;
};

int64_t BlocksOf(const SequenceRows& sequence) {
  return (int64_t{sequence.slots} + kAttentionBlock - 1) / kAttentionBlock;
}

// Orders like the float, with NaN lowest.
uint32_t OrderedBits(float x) {
  if (x != x) return 0;
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

}  // namespace

void CpuKeyScores(ThreadPool& pool, Isa isa, AttentionScratch& scratch, const KeyScoresArgs& args,
                  const AttentionRows& rows, const KvLayer& kv) {
  const AttentionKernels& kernels = AttentionKernelsOf(isa);
  int64_t blocks = 0;
  for (const KeyScoreTarget& target : args.targets) {
    const SequenceRows& sequence = rows.sequences[target.sequence];
    SKIM_CHECK(target.window >= 1 && target.window <= sequence.row_count);
    blocks += BlocksOf(sequence);
  }
  const int64_t floats = (Scorer::Floats(kv.layout.head_dim) + 15) / 16 * 16;
  float* memory = scratch.Reserve(pool.threads() * floats);
  pool.Run([&](int thread) {
    const int64_t begin = blocks * thread / pool.threads();
    const int64_t end = blocks * (thread + 1) / pool.threads();
    if (begin >= end) return;
    Scorer scorer(kernels, args, rows, kv, memory + thread * floats);
    int64_t first = 0;  // of the target, among all blocks
    for (const KeyScoreTarget& target : args.targets) {
      const int64_t count = BlocksOf(rows.sequences[target.sequence]);
      for (int64_t b = std::max(begin, first); b < std::min(end, first + count); ++b) {
        scorer.Score(target, static_cast<int>(b - first) * kAttentionBlock);
      }
      first += count;
    }
  });
}

void CpuPoolScores(TokenChoiceScratch& scratch, const PoolScoresArgs& args) {
  constexpr float kAbsent = -__builtin_inff();
  std::vector<float>& by_position = scratch.by_position;
  by_position.assign(args.positions, kAbsent);
  const auto position_of = [&](int64_t slot) {
    return args.slot_positions == nullptr ? slot : int64_t{args.slot_positions[slot]};
  };
  for (int a = 0; a < args.arrays; ++a) {
    const float* scores = args.scores + a * args.slots;
    float largest = 0;
    for (int64_t slot = 0; slot < args.slots; ++slot) largest = std::max(largest, scores[slot]);
    const float factor = !args.normalize ? 1.0f : largest > 0 ? 1 / largest : 0.0f;
    for (int64_t slot = 0; slot < args.slots; ++slot) {
      const int64_t position = position_of(slot);
      if (position >= args.positions) continue;
      const float before = a == 0 ? 0 : by_position[position];
      by_position[position] = before + scores[slot] * factor;
    }
  }
  for (int64_t p = 0; p < args.positions; ++p) {
    float best = by_position[p];
    if (best != kAbsent) {
      const int64_t end = std::min(args.positions, p + args.radius + 1);
      for (int64_t i = std::max<int64_t>(0, p - args.radius); i < end; ++i) {
        if (by_position[i] > best) best = by_position[i];
      }
    }
    args.pooled[p] = best;
  }
}

void CpuTopRows(TokenChoiceScratch& scratch, const TopRowsArgs& args) {
  // Score, then the lower row: one comparison of integers.
  std::vector<uint64_t>& keys = scratch.keys;
  keys.clear();
  const auto key = [](uint32_t rank, int64_t row) {
    return uint64_t{rank} << 32 | (0xffffffffu - static_cast<uint32_t>(row));
  };
  for (int64_t row = 0; row < args.rows; ++row) {
    if (args.allowed != nullptr && args.allowed[row] == 0) continue;
    const bool forced = std::ranges::any_of(args.forced, [row](const IndexRange& range) {
      return row >= range.begin && row < range.end;
    });
    keys.push_back(key(forced ? 0xffffffffu : OrderedBits(args.scores[row]), row));
  }
  SKIM_CHECK(args.count <= static_cast<int64_t>(keys.size()));
  if (args.count == 0) return;
  std::ranges::nth_element(keys, keys.begin() + (args.count - 1), std::greater<>());
  for (int64_t i = 0; i < args.count; ++i) {
    args.out[i] = static_cast<int32_t>(0xffffffffu - static_cast<uint32_t>(keys[i]));
  }
  std::sort(args.out, args.out + args.count);
}

}  // namespace skim
