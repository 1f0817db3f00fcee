#include "tests/kernels/paged_scene.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <random>

namespace skim {
namespace {

constexpr int kLayerInUnit = 1;

}  // namespace

PagedScene::PagedScene(OpScene* scene, const KvShape& shape, int pages)
    : scene_(*scene), shape_(shape) {
  kv_.layout = {shape.page_tokens, 2, shape.kv_heads, shape.head_dim, shape.format};
  kv_.layer_in_unit = kLayerInUnit;
  // Whatever former owners left must not matter: NaN, as a number and as a scale.
  const std::vector<Bf16> garbage(pages * kv_.layout.PageBytes() / sizeof(Bf16), Bf16{0x7fc1});
  kv_.pool = reinterpret_cast<std::byte*>(scene->Up(garbage));
  free_.resize(pages);
  std::iota(free_.begin(), free_.end(), 0);
  std::shuffle(free_.begin(), free_.end(), std::mt19937(7));
}

void PagedScene::Write(const std::vector<KvWork>& work, int chunk) {
  std::vector<size_t> owners;  // work whose pages it has
  for (const KvWork& w : work) {
    const auto same = [&](const KvWork& other) {
      return other.sequence == w.sequence && other.slots == w.slots;
    };
    owners.push_back(std::find_if(work.begin(), work.end(), same) - work.begin());
    if (owners.back() < begins_.size()) {
      begins_.push_back(begins_[owners.back()]);
      continue;
    }
    begins_.push_back(static_cast<int32_t>(blocks_.size()));
    for (int slot = 0; slot < w.slots; slot += shape_.page_tokens) {
      blocks_.push_back(free_.back());
      free_.pop_back();
    }
  }
  slot_positions_.assign(blocks_.size() * shape_.page_tokens, 0);
  for (size_t i = 0; i < work.size(); ++i) {
    if (owners[i] != i) continue;
    for (int slot = 0; slot < work[i].slots; ++slot) {
      slot_positions_[begins_[i] * shape_.page_tokens + slot] = work[i].sequence->positions[slot];
    }
    for (int first = 0; first < work[i].slots; first += chunk) {
      WriteSlots(*work[i].sequence, begins_[i], first, std::min(first + chunk, work[i].slots));
    }
  }
}

AttentionRows PagedScene::Rows(const std::vector<KvWork>& work,
                               std::vector<SequenceRows>* sequences) {
  std::vector<int32_t> positions;
  for (size_t i = 0; i < work.size(); ++i) {
    sequences->push_back({static_cast<int32_t>(positions.size()),
                          static_cast<int32_t>(work[i].positions.size()), begins_[i], work[i].slots,
                          work[i].sequence->by_index ? SequenceRows::kInOrder
                                                     : int64_t{begins_[i]} * shape_.page_tokens});
    positions.insert(positions.end(), work[i].positions.begin(), work[i].positions.end());
  }
  AttentionRows rows;
  rows.sequences = *sequences;
  rows.positions = scene_.Up(positions);
  rows.blocks = scene_.Up(blocks_);
  rows.slot_positions = scene_.Up(slot_positions_);
  return rows;
}

std::vector<AttentionResult> PagedScene::Attend(const std::vector<KvWork>& work) {
  std::vector<SequenceRows> sequences;
  const AttentionRows attention_rows = Rows(work, &sequences);
  std::vector<Bf16> q;
  for (const KvWork& w : work) {
    for (int32_t position : w.positions) {
      const auto& query = w.sequence->queries[position];
      q.insert(q.end(), query.begin(), query.end());
    }
  }
  const int64_t width = shape_.heads * shape_.head_dim;
  const auto rows = static_cast<int64_t>(q.size()) / width;
  AttentionArgs& args = attention_;
  args.q = {scene_.Up(q), rows, width, width};
  args.heads = shape_.heads;
  args.scale = 1 / std::sqrt(static_cast<float>(shape_.head_dim));
  args.out = {scene_.Room<Bf16>(rows * width), rows, width, width};
  args.lse = scene_.Room<float>(rows * shape_.heads);
  scene_.ops().Attention(args, attention_rows, kv_);
  const auto out = scene_.Down(args.out.data, rows * width);
  const auto lse = scene_.Down(args.lse, rows * shape_.heads);
  std::vector<AttentionResult> results;
  for (int64_t r = 0; r < rows; ++r) {
    results.push_back({{out.begin() + r * width, out.begin() + (r + 1) * width},
                       {lse.begin() + r * shape_.heads, lse.begin() + (r + 1) * shape_.heads}});
  }
  return results;
}

std::vector<std::vector<float>> PagedScene::ScoreKeys(const std::vector<KvWork>& work,
                                                      const std::vector<KvScoring>& scorings,
                                                      const std::vector<int32_t>& scored_heads) {
  std::vector<SequenceRows> sequences;
  const AttentionRows rows = Rows(work, &sequences);
  const size_t arrays = std::max<size_t>(1, scored_heads.size());
  std::vector<KeyScoreTarget> targets;
  for (const KvScoring& scoring : scorings) {
    targets.push_back(
        {scoring.work, scoring.window, scene_.Room<float>(arrays * work[scoring.work].slots)});
  }
  scene_.ops().KeyScores({.q = attention_.q,
                          .lse = attention_.lse,
                          .heads = attention_.heads,
                          .scale = attention_.scale,
                          .scored_heads = scored_heads,
                          .targets = targets},
                         rows, kv_);
  std::vector<std::vector<float>> scores;
  for (size_t i = 0; i < targets.size(); ++i) {
    scores.push_back(scene_.Down(targets[i].scores, arrays * work[scorings[i].work].slots));
  }
  return scores;
}

void PagedScene::WriteSlots(const KvSequence& sequence, int32_t block_begin, int first, int end) {
  const int count = end - first, kv_width = shape_.kv_heads * shape_.head_dim;
  const int64_t width = shape_.heads * shape_.head_dim + 2 * kv_width;
  std::vector<float> qkv(count * width, 1.0f);
  std::vector<int32_t> slots, positions(count, 0);
  for (int slot = first; slot < end; ++slot) {
    float* row = qkv.data() + (slot - first) * width + shape_.heads * shape_.head_dim;
    for (int i = 0; i < kv_width; ++i) {
      row[i] = ToFloat(sequence.keys[slot][i]);
      row[kv_width + i] = ToFloat(sequence.values[slot][i]);
    }
    slots.push_back(slot);
  }
  const SequenceRows rows_of = {0, count, block_begin, end};
  AttentionRows rows;
  rows.sequences = {&rows_of, 1};
  rows.positions = scene_.Up(positions);
  rows.slots = scene_.Up(slots);
  rows.blocks = scene_.Up(blocks_);
  RopeWriteArgs args;
  args.qkv = {scene_.Up(qkv), count, width, width};
  args.heads = shape_.heads;
  args.rope_cos = args.rope_sin = scene_.Room<float>(1);
  const int64_t q_width = shape_.heads * shape_.head_dim;
  args.q = {scene_.Room<Bf16>(count * q_width), count, q_width, q_width};
  scene_.ops().RopeAndWriteKv(args, rows, kv_);
  ASSERT_TRUE(scene_.ops().Wait().ok());
}

std::vector<int32_t> Range(int begin, int end) {
  std::vector<int32_t> range(end - begin);
  std::iota(range.begin(), range.end(), begin);
  return range;
}

}  // namespace skim
