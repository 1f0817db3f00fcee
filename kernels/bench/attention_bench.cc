#include "kernels/bench/attention_bench.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <random>
#include <span>

#include "kernels/bench/timing.h"
#include "kernels/cpu/attention.h"
#include "kernels/cpu/memory.h"

namespace skim {
namespace {

constexpr int kContext = 4096;
constexpr int kPageTokens = 32;
// Decoding walks the K/V of as many layers as no cache holds.
constexpr size_t kColdBytes = size_t{256} << 20;

struct Shape {
  int heads, kv_heads, head_dim;
};
constexpr Shape kShapes[] = {{9, 3, 64}, {32, 8, 64}};  // SmolLM2-135M; Llama 3.2 1B

// One sequence of kContext tokens; its last `rows` tokens are the rows of the step.
class AttentionScene {
 public:
  AttentionScene(const Shape& shape, KvFormat format, int rows, int layers) {
    kv_.layout = {kPageTokens, layers, shape.kv_heads, shape.head_dim, format};
    blocks_.resize(kContext / kPageTokens);
    std::iota(blocks_.begin(), blocks_.end(), 0);
    std::shuffle(blocks_.begin(), blocks_.end(), std::mt19937(1));
    pool_ = *AlignedMemory::Allocate(blocks_.size() * kv_.layout.PageBytes());
    kv_.pool = pool_.data();
    FillPool();
    const int64_t width = int64_t{shape.heads} * shape.head_dim;
    q_.resize(rows * width);
    Fill(q_);
    out_.resize(rows * width);
    positions_.resize(rows);
    std::iota(positions_.begin(), positions_.end(), kContext - rows);
    sequence_ = {0, rows, 0, kContext};
    args_.q = {q_.data(), rows, width, width};
    args_.heads = shape.heads;
    args_.scale = 1 / std::sqrt(static_cast<float>(shape.head_dim));
    args_.out = {out_.data(), rows, width, width};
  }

  void RunLayer(ThreadPool& pool, Isa isa, int layer) {
    kv_.layer_in_unit = layer;
    AttentionRows rows;
    rows.sequences = {&sequence_, 1};
    rows.positions = positions_.data();
    rows.blocks = blocks_.data();
    CpuAttention(pool, isa, scratch_, args_, rows, kv_);
  }

 private:
  static void Fill(std::span<Bf16> values) {
    for (size_t i = 0; i < values.size(); ++i) {
      values[i] = ToBf16(static_cast<float>(i * 7 % 251) * 0.008f - 1);
    }
  }

  // Numbers of ordinary size, whatever they mean.
  void FillPool() {
    const KvLayout& layout = kv_.layout;
    if (!layout.coded()) {
      Fill({reinterpret_cast<Bf16*>(pool_.data()), pool_.size() / sizeof(Bf16)});
      return;
    }
    for (size_t i = 0; i < pool_.size(); ++i) pool_.data()[i] = static_cast<std::byte>(i * 7 % 251);
    for (size_t page = 0; page < blocks_.size(); ++page) {
      for (int layer = 0; layer < layout.unit_layers; ++layer) {
        for (int head = 0; head < layout.kv_heads; ++head) {
          std::byte* base = pool_.data() + page * layout.PageBytes();
          FillScales(base + layout.KeyBase(layer, head) + layout.KeyScale(0));
          FillScales(base + layout.ValueBase(layer, head) + layout.ValueScale(0));
        }
      }
    }
  }
  static void FillScales(std::byte* to) {
    std::fill_n(reinterpret_cast<float*>(to), kPageTokens, 0.008f);
  }

  KvLayer kv_;
  std::vector<PageId> blocks_;
  AlignedMemory pool_;
  std::vector<Bf16> q_, out_;
  std::vector<int32_t> positions_;
  SequenceRows sequence_;
  AttentionArgs args_;
  AttentionScratch scratch_;
};

}  // namespace

std::vector<AttentionShare> MeasureAttention(ThreadPool& pool, Isa isa, double flops,
                                             ReadProbe& probe) {
  std::vector<AttentionShare> shares;
  for (const Shape& shape : kShapes) {
    for (KvFormat format : {KvFormat::kBf16, KvFormat::kInt8, KvFormat::kFp8}) {
      const KvLayout page = {kPageTokens, 1, shape.kv_heads, shape.head_dim, format};
      const size_t layer_bytes = size_t{kContext / kPageTokens} * page.PageBytes();
      const int layers = static_cast<int>(kColdBytes / layer_bytes);
      AttentionScene decode(shape, format, 1, layers);
      const double bytes = static_cast<double>(layer_bytes) * layers;
      const ReadTiming read = TimeReading(probe, bytes, [&] {
        for (int layer = 0; layer < layers; ++layer) decode.RunLayer(pool, isa, layer);
      });
      shares.push_back({"attention_decode_share", read.share, bytes / read.seconds, format,
                        shape.heads, shape.kv_heads, shape.head_dim, kContext});

      AttentionScene prefill(shape, format, kContext, 1);
      const double products = kContext * (kContext + 1.0) / 2 * shape.heads * shape.head_dim;
      const double rate = 4 * products / MedianSeconds([&] { prefill.RunLayer(pool, isa, 0); });
      shares.push_back({"attention_prefill_share", rate / flops, rate, format, shape.heads,
                        shape.kv_heads, shape.head_dim, kContext});
    }
  }
  return shares;
}

}  // namespace skim
