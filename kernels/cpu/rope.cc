#include "kernels/cpu/rope.h"

#include <algorithm>
#include <cstring>
#include <type_traits>

#include "base/check.h"
#include "kernels/cpu/row_kernels.h"
#include "kernels/cpu/small_op.h"

namespace skim {
namespace {

// One slot of one KV head: numbers of type `T`, Bf16 or code.
template <typename T>
constexpr bool kCoded = !std::is_same_v<T, Bf16>;

template <typename T>
void WriteKeys(const T* key, int slot, const KvLayout& layout, std::byte* keys) {
  keys += layout.KeyElement(slot, 0);
  for (int d = 0; d < layout.head_dim; d += 2) {
    std::memcpy(keys + KvLayout::KeyDimension(kCoded<T>, d), key + d, 2 * sizeof(T));
  }
}

template <typename T>
void WriteValues(const T* value, int slot, const KvLayout& layout, std::byte* values) {
  values += layout.ValueElement(slot, 0);
  for (int d = 0; d < layout.head_dim; ++d) {
    std::memcpy(values + KvLayout::ValueDimension(kCoded<T>, d), value + d, sizeof(T));
  }
}

void WriteScale(float scale, std::byte* to) { std::memcpy(to, &scale, sizeof scale); }

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
    head.x = x + (args_.heads + kv_head) * head_dim;
    head.norm = args_.k_norm;
    const float* value = x + (args_.heads + layout.kv_heads + kv_head) * head_dim;

    const int slot = rows_.slots[row];
    const PageId page = rows_.blocks[sequence.block_begin + slot / layout.page_tokens];
    std::byte* base = kv_.pool + page * layout.PageBytes();
    std::byte* keys = base + layout.KeyBase(kv_.layer_in_unit, kv_head);
    std::byte* values = base + layout.ValueBase(kv_.layer_in_unit, kv_head);
    if (layout.coded()) {
      WriteCodes(head, value, slot % layout.page_tokens, keys, values);
    } else {
      // Only the last slot's partner: any other is in use, maybe written by another thread.
      const bool clear_partner = slot % 2 == 0 && slot + 1 >= sequence.slots;
      WriteBf16(head, value, slot % layout.page_tokens, clear_partner, keys, values);
    }
  }

  void WriteBf16(const RotaryHead& head, const float* value, int offset, bool clear_partner,
                 std::byte* keys, std::byte* values) const {
    Bf16 numbers[kMaxHeadDim];
    kernels_.rotate(head, numbers);
    WriteKeys(numbers, offset, kv_.layout, keys);
    std::transform(value, value + head.head_dim, numbers, ToBf16);
    WriteValues(numbers, offset, kv_.layout, values);
    if (!clear_partner) return;
    std::fill_n(numbers, head.head_dim, Bf16{});
    WriteValues(numbers, offset + 1, kv_.layout, values);
  }

  void WriteCodes(const RotaryHead& head, const float* value, int offset, std::byte* keys,
                  std::byte* values) const {
    const KvLayout& layout = kv_.layout;
    float key[kMaxHeadDim];
    uint8_t codes[kMaxHeadDim];
    kernels_.rotate_to_float(head, key);
    const float key_scale = kernels_.quantize(key, head.head_dim, layout.format, codes);
    WriteKeys(codes, offset, layout, keys);
    WriteScale(key_scale, keys + layout.KeyScale(offset));
    const float value_scale = kernels_.quantize(value, head.head_dim, layout.format, codes);
    WriteValues(codes, offset, layout, values);
    WriteScale(value_scale, values + layout.ValueScale(offset));
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
