// The K and V of one sequence and KV head, a block of kAttentionBlock slots at a time: how
// every op reads pages, whatever their format. A kernel takes the BlockPlaces of a block
// (AttentionKernels::Of(format).score_block for products with keys alone).
//
//   KvBlocks blocks(rows, kv);
//   blocks.Select(sequence, kv_head, slots);
//   for (int slot = 0; slot < slots; slot += kAttentionBlock) {
//     const BlockPlaces at = blocks.At(slot);
//     const int count = std::min(kAttentionBlock, slots - slot);
//     blocks.Positions(slot, count, positions);
//     ...
//   }
#pragma once

#include <algorithm>
#include <bit>
#include <climits>
#include <cstddef>
#include <cstdint>

#include "kernels/cpu/attention_kernels.h"
#include "kernels/ops.h"

namespace skim {

// Borrows its arguments.
class KvBlocks {
 public:
  KvBlocks(const AttentionRows& rows, const KvLayer& kv)
      : rows_(rows),
        kv_(kv),
        page_shift_(std::countr_zero(static_cast<unsigned>(kv.layout.page_tokens))),
        page_bytes_(kv.layout.PageBytes()) {}

  // The first `slots` slots of the sequence, at least one.
  void Select(const SequenceRows& sequence, int kv_head, int slots) {
    block_begin_ = sequence.block_begin;
    positions_begin_ = sequence.positions_begin;
    slots_ = slots;
    keys_ = kv_.pool + kv_.layout.KeyBase(kv_.layer_in_unit, kv_head);
  }

  // slot is a multiple of kAttentionBlock below `slots`.
  BlockPlaces At(int slot) const {
    const KvLayout& layout = kv_.layout;
    const int64_t key_bytes = layout.KeyBytes(), slot_bytes = key_bytes >> page_shift_;
    const int64_t to_values = key_bytes + layout.ScaleBytes(), value_bytes = layout.ValueBytes();
    const int64_t value_slot_bytes = value_bytes >> page_shift_;
    BlockPlaces places;
    for (int g = 0; g < kBlockGroups; ++g) {
      // A group past the last slot may have no page; its scores are masked, so any keys do.
      const int first = slot + g * kKeyGroup < slots_ ? slot + g * kKeyGroup : slot;
      const PageId page = rows_.blocks[block_begin_ + (first >> page_shift_)];
      const int offset = first & (layout.page_tokens - 1);
      const std::byte* keys = keys_ + page * page_bytes_;
      const std::byte* values = keys + to_values;
      places.keys[g] = keys + offset * slot_bytes;
      places.values[g] = values + offset * value_slot_bytes;
      places.key_scales[g] = reinterpret_cast<const float*>(keys + key_bytes) + offset;
      places.value_scales[g] = reinterpret_cast<const float*>(values + value_bytes) + offset;
    }
    return places;
  }

  // positions[i] = that of slot + i for i < count, then INT32_MAX up to kAttentionBlock.
  void Positions(int slot, int count, int32_t* positions) const {
    std::fill(positions + count, positions + kAttentionBlock, INT32_MAX);
    if (positions_begin_ == SequenceRows::kInOrder) {
      for (int i = 0; i < count; ++i) positions[i] = slot + i;
    } else {
      std::copy_n(rows_.slot_positions + positions_begin_ + slot, count, positions);
    }
  }

 private:
  const AttentionRows& rows_;
  const KvLayer& kv_;
  const int page_shift_;  // pages hold a power of two of slots
  const int64_t page_bytes_;
  const std::byte* keys_ = nullptr;  // of the KV head in page 0
  int32_t block_begin_ = 0;
  int64_t positions_begin_ = SequenceRows::kInOrder;
  int slots_ = 0;
};

}  // namespace skim
