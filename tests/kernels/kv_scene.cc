#include "kv_scene.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>

#include "kernels/cpu/attention.h"
#include "kernels/cpu/key_scores.h"

namespace skim {
namespace {

std::vector<Bf16> RandomRow(std::mt19937& random, int count) {
  std::normal_distribution<float> normal;
  std::vector<Bf16> row(count);
  for (Bf16& x : row) x = ToBf16(normal(random));
  return row;
}

std::vector<StoredVector> Stored(const KvShape& shape, const std::vector<Bf16>& row) {
  std::vector<StoredVector> stored;
  for (int h = 0; h < shape.kv_heads; ++h) {
    std::vector<float> x;
    for (int d = 0; d < shape.head_dim; ++d) x.push_back(ToFloat(row[h * shape.head_dim + d]));
    stored.push_back(StoredVector::Of(shape.format, x.data(), shape.head_dim));
  }
  return stored;
}

int RoundUp(int n, int to) { return (n + to - 1) / to * to; }

template <typename T>
void Put(std::byte* to, T x) {
  std::memcpy(to, &x, sizeof x);
}

// bf16: [page_tokens/16][head_dim/2][16][2] and [page_tokens/2][head_dim][2], spelled out.
void WriteBf16Slot(const KvShape& shape, const KvSequence& sequence, int slot, int slots,
                   std::byte* unit) {
  const int offset = slot % shape.page_tokens, head_dim = shape.head_dim;
  for (int h = 0; h < shape.kv_heads; ++h) {
    std::byte* keys = unit + 4 * h * shape.page_tokens * head_dim;
    std::byte* values = keys + 2 * shape.page_tokens * head_dim;
    for (int d = 0; d < head_dim; ++d) {
      Put(keys + 2 * (((offset / 16 * (head_dim / 2) + d / 2) * 16 + offset % 16) * 2 + d % 2),
          sequence.keys[slot][h * head_dim + d]);
      Put(values + 2 * ((offset / 2 * head_dim + d) * 2 + offset % 2),
          sequence.values[slot][h * head_dim + d]);
      if (slot + 1 < slots || slot % 2 == 1) continue;
      Put(values + 2 * ((offset / 2 * head_dim + d) * 2 + 1), Bf16{});
    }
  }
}

// Codes: lines of 16 keys x 4 dimensions, scales, lines of 16 dimensions x 4 keys, scales.
void WriteCodedSlot(const KvShape& shape, const KvSequence& sequence, int slot, std::byte* unit) {
  const int tokens = shape.page_tokens, offset = slot % tokens;
  const int key_width = RoundUp(shape.head_dim, 4), value_width = RoundUp(shape.head_dim, 16);
  const auto in_line = [](int lane, int depth) {
    return lane / 4 * 16 + depth / 2 * 8 + lane % 4 * 2 + depth % 2;
  };
  for (int h = 0; h < shape.kv_heads; ++h) {
    std::byte* keys = unit + h * tokens * (key_width + value_width + 8);
    std::byte* key_scales = keys + tokens * key_width;
    std::byte* values = key_scales + tokens * 4;
    std::byte* value_scales = values + tokens * value_width;
    const StoredVector& key = sequence.stored_keys[slot][h];
    const StoredVector& value = sequence.stored_values[slot][h];
    Put(key_scales + 4 * offset, key.scale);
    Put(value_scales + 4 * offset, value.scale);
    for (int d = 0; d < shape.head_dim; ++d) {
      Put(keys + 64 * (offset / 16 * (key_width / 4) + d / 4) + in_line(offset % 16, d % 4),
          key.codes[d]);
      Put(values + 64 * (offset / 4 * (value_width / 16) + d / 16) + in_line(d % 16, offset % 4),
          value.codes[d]);
    }
  }
}

// Where one row of a sequence attends, and to which numbers.
struct Head {
  const Bf16* q;
  std::vector<int> slots;
  double scale;
};

Head HeadOf(const KvShape& shape, const KvWork& work, int row, int head) {
  const int32_t position = work.positions[row];
  Head result = {work.sequence->queries[position].data() + head * shape.head_dim,
                 {},
                 1 / std::sqrt(static_cast<double>(shape.head_dim))};
  for (int slot = 0; slot < work.slots; ++slot) {
    if (work.sequence->positions[slot] <= position) result.slots.push_back(slot);
  }
  return result;
}

// key(slot, kv_head, d) and value(slot, kv_head, d) are its numbers.
template <typename Key, typename Value>
AttentionReference Attend(const KvShape& shape, const KvWork& work, int row, const Key& key,
                          const Value& value) {
  const int head_dim = shape.head_dim;
  AttentionReference reference;
  for (int h = 0; h < shape.heads; ++h) {
    const Head head = HeadOf(shape, work, row, h);
    const int kv_head = h / (shape.heads / shape.kv_heads);
    std::vector<double> scores;
    double max = -INFINITY;
    for (int slot : head.slots) {
      double score = 0;
      for (int d = 0; d < head_dim; ++d) {
        score += double{ToFloat(head.q[d])} * key(slot, kv_head, d);
      }
      scores.push_back(score * head.scale);
      max = std::max(max, scores.back());
    }
    double sum = 0;
    std::vector<double> out(head_dim), magnitude(head_dim), probabilities(work.slots);
    for (size_t i = 0; i < scores.size(); ++i) {
      const double p = std::exp(scores[i] - max);
      sum += p;
      probabilities[head.slots[i]] = p;
      for (int d = 0; d < head_dim; ++d) {
        const double v = value(head.slots[i], kv_head, d);
        out[d] += p * v;
        magnitude[d] += p * std::abs(v);
      }
    }
    for (int d = 0; d < head_dim; ++d) {
      reference.out.push_back(sum > 0 ? out[d] / sum : 0);
      reference.magnitude.push_back(sum > 0 ? magnitude[d] / sum : 0);
    }
    reference.lse.push_back(max + std::log(sum));
    for (double& p : probabilities) p /= sum;
    reference.probabilities.push_back(std::move(probabilities));
  }
  return reference;
}

double LargestOf(const Bf16* x, int count) {
  double max = 0;
  for (int d = 0; d < count; ++d) max = std::max(max, std::abs(double{ToFloat(x[d])}));
  return max;
}

// A pool with the K/V of `work`, on which the attention of its rows has run.
struct Scene {
  Scene(Isa isa, int threads, const KvShape& shape, const std::vector<KvWork>& work,
        uint32_t page_seed);

  int rows = 0;
  KvLayer kv;
  std::vector<PageId> blocks;
  std::vector<std::byte> pool;
  std::vector<Bf16> q, out;
  std::vector<SequenceRows> sequences;
  std::vector<int32_t> positions, slot_positions;
  std::vector<float> lse;  // [rows, heads]
  AttentionRows attention_rows;
  AttentionArgs attention;
};

Scene::Scene(Isa isa, int threads, const KvShape& shape, const std::vector<KvWork>& work,
             uint32_t page_seed) {
  kv.layout = {shape.page_tokens, 2, shape.kv_heads, shape.head_dim, shape.format};
  kv.layer_in_unit = 1;
  int pages = 0;
  for (const KvWork& w : work) {
    pages += (w.slots + shape.page_tokens - 1) / shape.page_tokens;
    rows += static_cast<int>(w.positions.size());
  }
  blocks.resize(pages);
  std::iota(blocks.begin(), blocks.end(), 0);
  std::shuffle(blocks.begin(), blocks.end(), std::mt19937(page_seed));
  // A NaN in bf16 and float, the largest negative code.
  pool.assign(pages * kv.layout.PageBytes(), std::byte{0xff});
  kv.pool = pool.data();

  const int width = shape.heads * shape.head_dim;
  slot_positions.assign(pages * shape.page_tokens, 0);
  out.assign(rows * width, Bf16{0x7fc2});
  lse.assign(rows * shape.heads, std::nanf(""));
  int block = 0;
  for (const KvWork& w : work) {
    const int count = static_cast<int>(w.positions.size());
    sequences.push_back({static_cast<int32_t>(positions.size()), count, block, w.slots,
                         w.sequence->by_index ? SequenceRows::kInOrder
                                              : int64_t{block} * shape.page_tokens});
    for (int slot = 0; slot < w.slots; ++slot) {
      const PageId page = blocks[block + slot / shape.page_tokens];
      std::byte* unit = pool.data() + page * kv.layout.PageBytes() + kv.layout.LayerBytes();
      if (shape.format == KvFormat::kBf16) {
        WriteBf16Slot(shape, *w.sequence, slot, w.slots, unit);
      } else {
        WriteCodedSlot(shape, *w.sequence, slot, unit);
      }
      slot_positions[block * shape.page_tokens + slot] = w.sequence->positions[slot];
    }
    block += (w.slots + shape.page_tokens - 1) / shape.page_tokens;
    for (int32_t position : w.positions) {
      positions.push_back(position);
      const std::vector<Bf16>& query = w.sequence->queries[position];
      q.insert(q.end(), query.begin(), query.end());
    }
  }

  attention_rows.sequences = sequences;
  attention_rows.positions = positions.data();
  attention_rows.blocks = blocks.data();
  attention_rows.slot_positions = slot_positions.data();
  attention.q = {q.data(), rows, width, width};
  attention.heads = shape.heads;
  attention.scale = 1 / std::sqrt(static_cast<float>(shape.head_dim));
  attention.out = {out.data(), rows, width, width};
  attention.lse = lse.data();
  ThreadPool thread_pool(threads, false);
  AttentionScratch scratch;
  CpuAttention(thread_pool, isa, scratch, attention, attention_rows, kv);
}

}  // namespace

double CodeMagnitude(KvFormat format, int code) {
  if (format == KvFormat::kInt8) return code;
  if (code == 127) return NAN;
  return code < 8 ? std::ldexp(code, -9) : std::ldexp(8 + code % 8, code / 8 - 10);
}

double StorageError(KvFormat format, double x, double max) {
  constexpr double kSlack = 1.0001;  // the scale is a rounded float
  switch (format) {
    case KvFormat::kBf16:
      return 0x1p-8 * std::abs(x);
    case KvFormat::kInt8:
      return kSlack * max / 127 / 2;
    case KvFormat::kFp8:
      return kSlack * std::max(std::abs(x) / 16, max / 448 / 1024);
  }
  return NAN;
}

StoredVector StoredVector::Of(KvFormat format, const float* x, int count) {
  StoredVector stored;
  stored.format_ = format;
  if (format == KvFormat::kBf16) {
    for (int d = 0; d < count; ++d) stored.numbers.push_back(ToBf16(x[d]));
    return stored;
  }
  double max = 0;
  for (int d = 0; d < count; ++d) max = std::max(max, std::abs(double{x[d]}));
  const double to_codes = max > 0 ? (format == KvFormat::kInt8 ? 127 : 448) / max : 0;
  stored.scale = to_codes > 0 ? static_cast<float>(1 / to_codes) : 0;
  for (int d = 0; d < count; ++d) {
    const double wanted = std::abs(double{x[d]}) * to_codes;
    // Magnitudes ascend with their codes.
    int low = 0, high = format == KvFormat::kInt8 ? 127 : 126;
    while (high - low > 1) {
      const int middle = (low + high) / 2;
      (CodeMagnitude(format, middle) <= wanted ? low : high) = middle;
    }
    const double below = wanted - CodeMagnitude(format, low);
    const int code = CodeMagnitude(format, high) - wanted < below ? high : low;
    stored.codes.push_back(static_cast<uint8_t>(code | (x[d] < 0 ? 128 : 0)));
  }
  return stored;
}

double StoredVector::operator[](int d) const {
  if (format_ == KvFormat::kBf16) return ToFloat(numbers[d]);
  const double magnitude = CodeMagnitude(format_, codes[d] & 127) * scale;
  return codes[d] < 128 ? magnitude : -magnitude;
}

KvSequence RandomSequence(uint32_t seed, const KvShape& shape, int tokens) {
  std::mt19937 random(seed);
  KvSequence sequence;
  for (int t = 0; t < tokens; ++t) {
    sequence.positions.push_back(t);
    sequence.keys.push_back(RandomRow(random, shape.kv_heads * shape.head_dim));
    sequence.values.push_back(RandomRow(random, shape.kv_heads * shape.head_dim));
    sequence.stored_keys.push_back(Stored(shape, sequence.keys.back()));
    sequence.stored_values.push_back(Stored(shape, sequence.values.back()));
    sequence.queries.push_back(RandomRow(random, shape.heads * shape.head_dim));
  }
  return sequence;
}

KvSequence ExactSequence(uint32_t seed, const KvShape& shape, int tokens) {
  KvSequence sequence = RandomSequence(seed, shape, tokens);
  if (shape.format == KvFormat::kBf16) return sequence;
  const bool int8 = shape.format == KvFormat::kInt8;
  const double scale = int8 ? 0x1p-5 : 0x1p-7, highest = int8 ? 127 : 448;
  const auto settle = [&](std::vector<Bf16>& row, std::vector<StoredVector>& stored) {
    for (size_t i = 0; i < row.size(); ++i) {
      const size_t head = i / shape.head_dim, d = i % shape.head_dim;
      const uint8_t code = stored[head].codes[d];
      // One number of each vector is the highest, which makes the scale a power of two.
      const double magnitude = (d == 0 ? highest : CodeMagnitude(shape.format, code & 127)) * scale;
      row[i] = ToBf16(static_cast<float>(code < 128 ? magnitude : -magnitude));
    }
    stored = Stored(shape, row);
  };
  for (int t = 0; t < tokens; ++t) {
    settle(sequence.keys[t], sequence.stored_keys[t]);
    settle(sequence.values[t], sequence.stored_values[t]);
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
    shuffled.stored_keys[slot] = sequence.stored_keys[order[slot]];
    shuffled.stored_values[slot] = sequence.stored_values[order[slot]];
  }
  return shuffled;
}

std::vector<AttentionResult> RunAttention(Isa isa, int threads, const KvShape& shape,
                                          const std::vector<KvWork>& work, uint32_t page_seed) {
  const Scene scene(isa, threads, shape, work, page_seed);
  const int width = shape.heads * shape.head_dim;
  std::vector<AttentionResult> results;
  for (int r = 0; r < scene.rows; ++r) {
    results.push_back(
        {{scene.out.begin() + r * width, scene.out.begin() + (r + 1) * width},
         {scene.lse.begin() + r * shape.heads, scene.lse.begin() + (r + 1) * shape.heads}});
  }
  return results;
}

std::vector<std::vector<float>> RunKeyScores(Isa isa, int threads, const KvShape& shape,
                                             const std::vector<KvWork>& work,
                                             const std::vector<KvScoring>& scorings,
                                             const std::vector<int32_t>& scored_heads,
                                             uint32_t page_seed) {
  const Scene scene(isa, threads, shape, work, page_seed);
  const size_t arrays = std::max<size_t>(1, scored_heads.size());
  std::vector<std::vector<float>> results;
  std::vector<KeyScoreTarget> targets;
  results.reserve(scorings.size());
  for (const KvScoring& scoring : scorings) {
    results.emplace_back(arrays * work[scoring.work].slots, std::nanf(""));
    targets.push_back({scoring.work, scoring.window, results.back().data()});
  }
  KeyScoresArgs args;
  args.q = scene.attention.q;
  args.lse = scene.lse.data();
  args.heads = shape.heads;
  args.scale = scene.attention.scale;
  args.scored_heads = scored_heads;
  args.targets = targets;
  ThreadPool pool(threads, false);
  AttentionScratch scratch;
  CpuKeyScores(pool, isa, scratch, args, scene.attention_rows, scene.kv);
  return results;
}

AttentionReference ReferenceAttention(const KvShape& shape, const KvWork& work, int row) {
  const auto key = [&](int slot, int head, int d) {
    return work.sequence->stored_keys[slot][head][d];
  };
  const auto value = [&](int slot, int head, int d) {
    return work.sequence->stored_values[slot][head][d];
  };
  return Attend(shape, work, row, key, value);
}

std::vector<double> ReferenceKeyScores(const KvShape& shape, const KvWork& work, int window,
                                       const std::vector<int32_t>& heads) {
  std::vector<double> scores(work.slots);
  const int rows = static_cast<int>(work.positions.size());
  for (int r = rows - window; r < rows; ++r) {
    const AttentionReference reference = ReferenceAttention(shape, work, r);
    for (const int32_t head : heads) {
      for (int s = 0; s < work.slots; ++s) {
        scores[s] += reference.probabilities[head][s] / window / static_cast<double>(heads.size());
      }
    }
  }
  return scores;
}

AttentionReference ExactAttention(const KvShape& shape, const KvWork& work, int row,
                                  std::vector<double>* bound) {
  const int head_dim = shape.head_dim;
  const auto number = [&](const std::vector<std::vector<Bf16>>& vectors) {
    return [&vectors, head_dim](int slot, int head, int d) {
      return double{ToFloat(vectors[slot][head * head_dim + d])};
    };
  };
  const AttentionReference exact =
      Attend(shape, work, row, number(work.sequence->keys), number(work.sequence->values));
  // Scores off by at most e change every probability by a factor of at most exp(2 e).
  bound->clear();
  for (int h = 0; h < shape.heads; ++h) {
    const Head head = HeadOf(shape, work, row, h);
    const int first = h / (shape.heads / shape.kv_heads) * head_dim;
    double score_error = 0;
    std::vector<double> value_error(head_dim);
    for (int slot : head.slots) {
      const Bf16* key = work.sequence->keys[slot].data() + first;
      const Bf16* value = work.sequence->values[slot].data() + first;
      const double key_max = LargestOf(key, head_dim), value_max = LargestOf(value, head_dim);
      double error = 0;
      for (int d = 0; d < head_dim; ++d) {
        error += std::abs(ToFloat(head.q[d])) * StorageError(shape.format, ToFloat(key[d]), key_max);
        value_error[d] = std::max(value_error[d],
                                  StorageError(shape.format, ToFloat(value[d]), value_max));
      }
      score_error = std::max(score_error, error * head.scale);
    }
    for (int d = 0; d < head_dim; ++d) {
      const double magnitude = exact.magnitude[h * head_dim + d] + value_error[d];
      bound->push_back(std::expm1(2 * score_error) * magnitude + value_error[d]);
    }
  }
  return exact;
}

}  // namespace skim
