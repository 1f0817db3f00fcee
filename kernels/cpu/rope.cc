#include "kernels/cpu/rope.h"

#include <algorithm>
#include <cstring>

#include "base/check.h"
#include "kernels/cpu/row_kernels.h"
#include "kernels/cpu/small_op.h"

namespace skim {
namespace {

// Writes the K and V of one row and KV head.
void WriteKeys(const Bf16* key, int slot, const KvLayout& layout, Bf16* keys) {
  for (int d = 0; d < layout.head_dim; d += 2) {
    std::memcpy(keys + layout.KeyElement(slot, d), key + d, 2 * sizeof(Bf16));
  }
}

void WriteValues(const float* value, int slot, bool clear_partner, const KvLayout& layout,
                 Bf16* values) {
  Bf16* lane = values + layout.ValueElement(slot, 0);
  for (int d = 0; d < layout.head_dim; ++d) lane[2 * d] = ToBf16(value[d]);
  if (!clear_partner) return;
  for (int d = 0; d < layout.head_dim; ++d) lane[2 * d + 1] = Bf16{};
}

// The rows of a step, (row, KV head) by (row, KV head): the query heads of a KV head and
// its K and V.
class RopeRun {
 public:
  RopeRun(const RowKernels& kernels, const RopeWriteArgs& args, const AttentionRows& rows,
          const KvLayer& kv)
      : kernels_(kernels), args_(args), rows_(rows), kv_(kv) {}

  // Items [begin, end) of all sequences' rows x KV heads.
  void Run(int64_t begin, int64_t end) const {
    const int kv_heads = kv_.layout.kv_heads;
    int64_t first = 0;
    for (const SequenceRows& sequence : rows_.sequences) {
      const int64_t count = int64_t{sequence.row_count} * kv_heads;
      const int64_t from = std::max<int64_t>(begin - first, 0);
      const int64_t to = std::min(end - first, count);
      for (int64_t i = from; i < to; ++i) {
        RunItem(sequence, sequence.row_begin + i / kv_heads, static_cast<int>(i % kv_heads));
      }
      first += count;
    }
  }

 private:
  void RunItem(const SequenceRows& sequence, int64_t row, int kv_head) const {
    const KvLayout& layout = kv_.layout;
    const int head_dim = layout.head_dim, group = args_.heads / layout.kv_heads;
    const float* x = args_.qkv.Row(row);
    const int64_t angles = int64_t{rows_.positions[row]} * (args_.rotary_dim / 2);
    RotaryHead head = {nullptr,
                       head_dim,
                       args_.q_norm,
                       args_.norm_eps,
                       args_.rope_cos + angles,
                       args_.rope_sin + angles,
                       args_.rotary_dim};
    for (int h = kv_head * group; h < (kv_head + 1) * group; ++h) {
      head.x = x + h * head_dim;
      kernels_.rotate(head, args_.q.Row(row) + h * head_dim);
    }
    Bf16 key[kMaxHeadDim];
    head.x = x + (args_.heads + kv_head) * head_dim;
    head.norm = args_.k_norm;
    kernels_.rotate(head, key);
    const float* value = x + (args_.heads + layout.kv_heads + kv_head) * head_dim;

    const int slot = rows_.slots[row];
    const PageId page = rows_.blocks[sequence.block_begin + slot / layout.page_tokens];
    Bf16* base = kv_.pool + page * static_cast<int64_t>(layout.PageBytes() / sizeof(Bf16));
    const int offset = slot % layout.page_tokens;
    WriteKeys(key, offset, layout, base + layout.KeyBase(kv_.layer_in_unit, kv_head));
    // Only the last slot's partner: any other is in use, maybe written by another thread.
    const bool clear_partner = slot % 2 == 0 && slot + 1 >= sequence.slots;
    WriteValues(value, offset, clear_partner, layout,
                base + layout.ValueBase(kv_.layer_in_unit, kv_head));
  }

  const RowKernels& kernels_;
  const RopeWriteArgs& args_;
  const AttentionRows& rows_;
  const KvLayer& kv_;
};

}  // namespace

void CpuRopeAndWriteKv(ThreadPool& pool, Isa isa, const RopeWriteArgs& args,
                       const AttentionRows& rows, const KvLayer& kv) {
  const KvLayout& layout = kv.layout;
  SKIM_CHECK(layout.head_dim > 0 && layout.head_dim <= kMaxHeadDim && layout.head_dim % 2 == 0);
  SKIM_CHECK(args.rotary_dim >= 0 && args.rotary_dim <= layout.head_dim &&
             args.rotary_dim % 2 == 0);
  SKIM_CHECK(layout.kv_heads > 0 && args.heads % layout.kv_heads == 0);
  int64_t row_count = 0;
  for (const SequenceRows& sequence : rows.sequences) row_count += sequence.row_count;
  const RopeRun run(RowKernelsOf(isa), args, rows, kv);
  SplitUnlessSmall(pool, row_count * layout.kv_heads,
                   int64_t{args.heads / layout.kv_heads + 2} * layout.head_dim,
                   [&](int64_t begin, int64_t end) { run.Run(begin, end); });
}

}  // namespace skim
