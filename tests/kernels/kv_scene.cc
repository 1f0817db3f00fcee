#include "kv_scene.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "kernels/cpu/attention.h"

namespace skim {
namespace {

std::vector<Bf16> RandomRow(std::mt19937& random, int count) {
  std::normal_distribution<float> normal;
  std::vector<Bf16> row(count);
  for (Bf16& x : row) x = ToBf16(normal(random));
  return row;
}

// [page_tokens/16][head_dim/2][16][2] and [page_tokens/2][head_dim][2], spelled out.
void WriteSlot(const KvShape& shape, const KvSequence& sequence, int slot, int slots, Bf16* unit) {
  const int offset = slot % shape.page_tokens, head_dim = shape.head_dim;
  for (int h = 0; h < shape.kv_heads; ++h) {
    Bf16* keys = unit + 2 * h * shape.page_tokens * head_dim;
    Bf16* values = keys + shape.page_tokens * head_dim;
    for (int d = 0; d < head_dim; ++d) {
      keys[((offset / 16 * (head_dim / 2) + d / 2) * 16 + offset % 16) * 2 + d % 2] =
          sequence.keys[slot][h * head_dim + d];
      values[(offset / 2 * head_dim + d) * 2 + offset % 2] =
          sequence.values[slot][h * head_dim + d];
      if (slot + 1 == slots && slot % 2 == 0) values[(offset / 2 * head_dim + d) * 2 + 1] = {};
    }
  }
}

}  // namespace

KvSequence RandomSequence(uint32_t seed, const KvShape& shape, int tokens) {
  std::mt19937 random(seed);
  KvSequence sequence;
  for (int t = 0; t < tokens; ++t) {
    sequence.positions.push_back(t);
    sequence.keys.push_back(RandomRow(random, shape.kv_heads * shape.head_dim));
    sequence.values.push_back(RandomRow(random, shape.kv_heads * shape.head_dim));
    sequence.queries.push_back(RandomRow(random, shape.heads * shape.head_dim));
  }
  return sequence;
}

KvSequence Shuffled(const KvSequence& sequence, uint32_t seed) {
  std::vector<int> order(sequence.positions.size());
  std::iota(order.begin(), order.end(), 0);
  std::shuffle(order.begin(), order.end(), std::mt19937(seed));
  KvSequence shuffled = sequence;
  shuffled.by_index = false;
  for (size_t slot = 0; slot < order.size(); ++slot) {
    shuffled.positions[slot] = sequence.positions[order[slot]];
    shuffled.keys[slot] = sequence.keys[order[slot]];
    shuffled.values[slot] = sequence.values[order[slot]];
  }
  return shuffled;
}

std::vector<AttentionResult> RunAttention(Isa isa, int threads, const KvShape& shape,
                                          const std::vector<KvWork>& work, uint32_t page_seed) {
  KvLayer kv;
  kv.layout = {shape.page_tokens, 2, shape.kv_heads, shape.head_dim};
  kv.layer_in_unit = 1;
  int pages = 0, rows = 0;
  for (const KvWork& w : work) {
    pages += (w.slots + shape.page_tokens - 1) / shape.page_tokens;
    rows += static_cast<int>(w.positions.size());
  }
  std::vector<PageId> blocks(pages);
  std::iota(blocks.begin(), blocks.end(), 0);
  std::shuffle(blocks.begin(), blocks.end(), std::mt19937(page_seed));
  const int64_t page_elements = kv.layout.PageBytes() / sizeof(Bf16);
  std::vector<Bf16> pool(pages * page_elements, Bf16{0x7fc1});
  kv.pool = pool.data();

  const int width = shape.heads * shape.head_dim;
  std::vector<SequenceRows> sequences;
  std::vector<int32_t> positions, slot_positions(pages * shape.page_tokens, 0);
  std::vector<Bf16> q, out(rows * width, Bf16{0x7fc2});
  std::vector<float> lse(rows * shape.heads, std::nanf(""));
  bool by_index = true;
  int block = 0;
  for (const KvWork& w : work) {
    const int count = static_cast<int>(w.positions.size());
    sequences.push_back({static_cast<int32_t>(positions.size()), count, block, w.slots});
    by_index = by_index && w.sequence->by_index;
    for (int slot = 0; slot < w.slots; ++slot) {
      const PageId page = blocks[block + slot / shape.page_tokens];
      WriteSlot(shape, *w.sequence, slot, w.slots,
                pool.data() + page * page_elements + kv.layout.LayerElements());
      slot_positions[block * shape.page_tokens + slot] = w.sequence->positions[slot];
    }
    block += (w.slots + shape.page_tokens - 1) / shape.page_tokens;
    for (int32_t position : w.positions) {
      positions.push_back(position);
      const std::vector<Bf16>& query = w.sequence->queries[position];
      q.insert(q.end(), query.begin(), query.end());
    }
  }

  AttentionRows attention_rows;
  attention_rows.sequences = sequences;
  attention_rows.positions = positions.data();
  attention_rows.blocks = blocks.data();
  attention_rows.slot_positions = by_index ? nullptr : slot_positions.data();
  AttentionArgs args;
  args.q = {q.data(), rows, width, width};
  args.heads = shape.heads;
  args.scale = 1 / std::sqrt(static_cast<float>(shape.head_dim));
  args.out = {out.data(), rows, width, width};
  args.lse = lse.data();
  ThreadPool thread_pool(threads, false);
  AttentionScratch scratch;
  CpuAttention(thread_pool, isa, scratch, args, attention_rows, kv);

  std::vector<AttentionResult> results;
  for (int r = 0; r < rows; ++r) {
    results.push_back({{out.begin() + r * width, out.begin() + (r + 1) * width},
                       {lse.begin() + r * shape.heads, lse.begin() + (r + 1) * shape.heads}});
  }
  return results;
}

AttentionReference ReferenceAttention(const KvShape& shape, const KvWork& work, int row) {
  const KvSequence& sequence = *work.sequence;
  const int32_t position = work.positions[row];
  const int head_dim = shape.head_dim, group = shape.heads / shape.kv_heads;
  AttentionReference reference;
  for (int h = 0; h < shape.heads; ++h) {
    const Bf16* q = sequence.queries[position].data() + h * head_dim;
    std::vector<std::pair<double, int>> scores;
    double max = -INFINITY;
    for (int slot = 0; slot < work.slots; ++slot) {
      if (sequence.positions[slot] > position) continue;
      double score = 0;
      for (int d = 0; d < head_dim; ++d) {
        score += static_cast<double>(ToFloat(q[d])) *
                 ToFloat(sequence.keys[slot][h / group * head_dim + d]);
      }
      score /= std::sqrt(static_cast<double>(head_dim));
      max = std::max(max, score);
      scores.push_back({score, slot});
    }
    double sum = 0;
    std::vector<double> out(head_dim), magnitude(head_dim);
    for (const auto& [score, slot] : scores) {
      const double p = std::exp(score - max);
      sum += p;
      for (int d = 0; d < head_dim; ++d) {
        const double v = ToFloat(sequence.values[slot][h / group * head_dim + d]);
        out[d] += p * v;
        magnitude[d] += p * std::abs(v);
      }
    }
    for (int d = 0; d < head_dim; ++d) {
      reference.out.push_back(sum > 0 ? out[d] / sum : 0);
      reference.magnitude.push_back(sum > 0 ? magnitude[d] / sum : 0);
    }
    reference.lse.push_back(max + std::log(sum));
  }
  return reference;
}

}  // namespace skim
