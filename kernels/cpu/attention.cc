#include "kernels/cpu/attention.h"

#include <algorithm>
#include <climits>
#include <cmath>
#include <limits>
#include <numbers>

#if defined(__SSE__)
#include <xmmintrin.h>
#endif

#include "base/check.h"
#include "kernels/cpu/attention_kernels.h"
#include "kernels/cpu/attention_plan.h"
#include "kernels/cpu/kv_blocks.h"
#include "kernels/cpu/row_kernels.h"

namespace skim {
namespace {

// VDPBF16PS makes a denormal accumulator zero even where it adds nothing, so a masked block
// leaves every bit alone only if no other instruction makes denormals either.
class FlushDenormals {
 public:
#if defined(__SSE__)
  FlushDenormals() : saved_(_mm_getcsr()) { _mm_setcsr(saved_ | 0x8040); }
  ~FlushDenormals() { _mm_setcsr(saved_); }

 private:
  unsigned saved_;
#endif
};

constexpr int kSumLanes = 16;

int64_t RoundUp(int64_t n, int64_t to) { return (n + to - 1) / to * to; }

// Takes stretches of a float array, each on its own cache line.
class Carver {
 public:
  explicit Carver(float* base) : next_(base) {}
  template <typename T>
  T* Take(int64_t count) {
    T* taken = reinterpret_cast<T*>(next_);
    next_ += RoundUp(count * sizeof(T), 64) / sizeof(float);
    return taken;
  }
  float* next() const { return next_; }

 private:
  float* next_;
};

struct Shape {
  int rows;
  int head_dim;
  int q_stride;
  int columns;

  int64_t StateFloats() const { return RoundUp(rows, 16) + int64_t{rows} * (kSumLanes + columns); }
  int64_t ThreadFloats() const {
    return RoundUp(rows * q_stride, 32) / 2 + rows * kAttentionBlock * 3 / 2 +
           2 * RoundUp(rows, 16) + kAttentionBlock + kAttentionBlock * columns / 2 +
           2 * StateFloats();
  }
};

AttentionState TakeState(Carver& carver, const Shape& shape) {
  AttentionState state;
  state.max = carver.Take<float>(shape.rows);
  state.sum = carver.Take<float>(shape.rows * kSumLanes);
  state.acc = carver.Take<float>(int64_t{shape.rows} * shape.columns);
  return state;
}

void Clear(const AttentionTile& tile, const AttentionState& state) {
  std::fill_n(state.max, tile.rows, kNoMaximum);
  std::fill_n(state.sum, tile.rows * kSumLanes, 0.0f);
  std::fill_n(state.acc, int64_t{tile.rows} * tile.columns, 0.0f);
}

// One thread's view of the op: its scratch and the tile at hand.
class TileWorker {
 public:
  TileWorker(const AttentionKernels& kernels, const AttentionArgs& args, const AttentionRows& rows,
             const KvLayer& kv, const Shape& shape, float* scratch)
      : kernels_(kernels),
        add_block_(kernels.Of(kv.layout.format).add_block),
        args_(args),
        rows_(rows),
        blocks_(rows, kv) {
    Carver carver(scratch);
    q_ = carver.Take<Bf16>(shape.rows * shape.q_stride);
    limit_ = carver.Take<int32_t>(shape.rows);
    positions_ = carver.Take<int32_t>(kAttentionBlock);
    tile_.head_dim = shape.head_dim;
    tile_.q_stride = shape.q_stride;
    tile_.columns = shape.columns;
    tile_.q = q_;
    tile_.limit = limit_;
    tile_.scale = args.scale * std::numbers::log2e_v<float>;
    tile_.scores = carver.Take<float>(shape.rows * kAttentionBlock);
    tile_.probabilities = carver.Take<Bf16>(shape.rows * kAttentionBlock);
    tile_.factors = carver.Take<float>(shape.rows);
    tile_.expanded = carver.Take<Bf16>(kAttentionBlock * shape.columns);
    total_ = TakeState(carver, shape);
    span_ = TakeState(carver, shape);
  }

  const AttentionState& total() const { return total_; }

  void Load(const TileSpec& spec) {
    spec_ = spec;
    blocks_.Select(*spec.sequence, spec.kv_head, spec.slots);
    tile_.rows = spec.rows();
    lowest_limit_ = INT32_MAX;
    for (int t = 0, r = 0; t < spec.tokens; ++t) {
      const int32_t position = rows_.positions[spec.first_row + t];
      const Bf16* q = args_.q.Row(spec.first_row + t) + spec.first_head * tile_.head_dim;
      for (int h = 0; h < spec.heads; ++h, ++r, q += tile_.head_dim) {
        limit_[r] = position;
        Bf16* to = q_ + r * tile_.q_stride;
        std::copy_n(q, tile_.head_dim, to);
        std::fill(to + tile_.head_dim, to + tile_.q_stride, Bf16{});
      }
      lowest_limit_ = std::min(lowest_limit_, position);
    }
  }

  // into = the spans [begin, end) of the tile, merged; begins from nothing.
  void Accumulate(int begin, int end, const AttentionState& into) {
    Clear(tile_, into);
    for (int span = begin; span < end; ++span) {
      if (span == begin) {
        AddSpan(span, into);
      } else {
        Clear(tile_, span_);
        AddSpan(span, span_);
        Merge(into, span_);
      }
    }
  }

  void Merge(const AttentionState& into, const AttentionState& from) const {
    kernels_.merge(tile_, into, from);
  }

  void Finish(const AttentionState& state) const {
    for (int t = 0, r = 0; t < spec_.tokens; ++t) {
      const int64_t row = spec_.first_row + t;
      for (int h = 0; h < spec_.heads; ++h, ++r) {
        const int head = spec_.first_head + h;
        const float sum =
            kernels_.finish(tile_, state, r, args_.out.Row(row) + head * tile_.head_dim);
        if (args_.lse == nullptr) continue;
        args_.lse[row * args_.heads + head] =
            sum == 0 ? -std::numeric_limits<float>::infinity()
                     : (state.max[r] + std::log2(sum)) * std::numbers::ln2_v<float>;
      }
    }
  }

 private:
  void AddSpan(int span, const AttentionState& state) {
    const int begin = span * kAttentionSpan, end = std::min(spec_.slots, begin + kAttentionSpan);
    if (begin >= end) return;
    BlockPlaces places = blocks_.At(begin);
    for (int slot = begin; slot < end; slot += kAttentionBlock) {
      const int after = slot + kAttentionBlock;
      const BlockPlaces next = after < spec_.slots ? blocks_.At(after) : places;
      add_block_(tile_, MakeBlock(slot, places, next), state);
      places = next;
    }
  }

  AttentionBlock MakeBlock(int slot, const BlockPlaces& places, const BlockPlaces& next) {
    AttentionBlock block = {places, next, std::min(kAttentionBlock, spec_.slots - slot), nullptr};
    const bool in_order = spec_.sequence->positions_begin == SequenceRows::kInOrder;
    const bool all_seen = in_order && block.slots == kAttentionBlock &&
                          slot + kAttentionBlock - 1 <= lowest_limit_;
    block.positions = all_seen ? nullptr : positions_;
    if (!all_seen) blocks_.Positions(slot, block.slots, positions_);
    return block;
  }

  const AttentionKernels& kernels_;
  decltype(KvKernels::add_block) add_block_;
  const AttentionArgs& args_;
  const AttentionRows& rows_;
  KvBlocks blocks_;
  AttentionTile tile_;
  TileSpec spec_;
  int32_t lowest_limit_ = 0;
  Bf16* q_;
  int32_t* limit_;
  int32_t* positions_;
  AttentionState total_, span_;
};

// The op on all threads. A tile that crosses from one thread to the next leaves states
// behind: the thread that begins it leaves one (its spans come first, so it may merge
// them), later threads leave every span, since merging neighbours before the rest would
// round differently. The thread that ends the tile merges them all, left to right.
class AttentionRun {
 public:
  AttentionRun(const AttentionKernels& kernels, const AttentionArgs& args,
               const AttentionRows& rows, const KvLayer& kv, int threads, AttentionScratch& scratch)
      : kernels_(kernels),
        args_(args),
        rows_(rows),
        kv_(kv),
        plan_(args, rows, kv),
        cuts_(scratch.cuts) {
    plan_.Cut(threads, cuts_);
    const int head_dim = kv.layout.head_dim;
    shape_ = {plan_.max_rows(), head_dim, static_cast<int>(RoundUp(head_dim, 4)),
              static_cast<int>(RoundUp(head_dim, 16))};
    int64_t states = 0;
    for (int t = 0; t < threads; ++t) states += LeftSpans(t) + (LeavesBeginning(t) ? 1 : 0);
    scratch_ = scratch.Reserve(threads * shape_.ThreadFloats() + states * shape_.StateFloats());
    left_ = scratch_ + threads * shape_.ThreadFloats();
  }

  bool anything_left() const {
    return std::any_of(cuts_.begin(), cuts_.end(), [](const PlanCut& c) { return c.span > 0; });
  }

  void Accumulate(int thread) {
    const FlushDenormals flush;
    TileWorker worker = Worker(thread);
    Carver left(LeftBy(thread));
    const PlanCut from = cuts_[thread], to = cuts_[thread + 1];
    plan_.ForTiles(from.tile, to.tile, [&](int64_t index, const TileSpec& tile) {
      const int begin = index == from.tile ? from.span : 0;
      const int end = index == to.tile ? to.span : tile.spans;
      if (begin >= end) return;
      worker.Load(tile);
      if (begin > 0) {
        for (int span = begin; span < end; ++span) {
          worker.Accumulate(span, span + 1, TakeState(left, shape_));
        }
      } else if (end < tile.spans) {
        worker.Accumulate(begin, end, TakeState(left, shape_));
      } else {
        worker.Accumulate(begin, end, worker.total());
        worker.Finish(worker.total());
      }
    });
  }

  // After every thread is through Accumulate.
  void MergeLeft(int thread) {
    const int64_t tile = cuts_[thread].tile;
    if (cuts_[thread].span == 0 || cuts_[thread + 1].tile == tile) return;
    const FlushDenormals flush;
    TileWorker worker = Worker(thread);
    plan_.ForTiles(tile, tile, [&](int64_t, const TileSpec& spec) { worker.Load(spec); });
    int from = thread - 1;
    while (cuts_[from].tile == tile && cuts_[from].span > 0) --from;
    Carver begun(LeftBy(from) + LeftSpans(from) * shape_.StateFloats());
    const AttentionState total = TakeState(begun, shape_);
    for (int t = from + 1; t <= thread; ++t) {
      Carver left(LeftBy(t));
      for (int64_t i = LeftSpans(t); i > 0; --i) worker.Merge(total, TakeState(left, shape_));
    }
    worker.Finish(total);
  }

 private:
  TileWorker Worker(int thread) const {
    return {kernels_, args_, rows_, kv_, shape_, scratch_ + thread * shape_.ThreadFloats()};
  }

  // Spans of a tile that an earlier thread began.
  int64_t LeftSpans(int thread) const {
    const PlanCut from = cuts_[thread], to = cuts_[thread + 1];
    if (from.span == 0) return 0;
    if (from.tile == to.tile) return to.span - from.span;
    int64_t spans = 0;
    plan_.ForTiles(from.tile, from.tile,
                   [&](int64_t, const TileSpec& tile) { spans = tile.spans - from.span; });
    return spans;
  }

  bool LeavesBeginning(int thread) const {
    const PlanCut from = cuts_[thread], to = cuts_[thread + 1];
    return to.span > 0 && !(from.tile == to.tile && from.span > 0);
  }

  float* LeftBy(int thread) const {
    int64_t states = 0;
    for (int t = 0; t < thread; ++t) states += LeftSpans(t) + (LeavesBeginning(t) ? 1 : 0);
    return left_ + states * shape_.StateFloats();
  }

  const AttentionKernels& kernels_;
  const AttentionArgs& args_;
  const AttentionRows& rows_;
  const KvLayer& kv_;
  AttentionPlan plan_;
  std::vector<PlanCut>& cuts_;
  Shape shape_;
  float* scratch_;
  float* left_;
};

}  // namespace

const AttentionKernels& AttentionKernelsOf(Isa isa) {
  switch (isa) {
    case Isa::kPlain:
      return kAttentionPlain;
    case Isa::kAvx2:
      return kAttentionAvx2;
    case Isa::kAvx512:
    case Isa::kAmx:
      return kAttentionAvx512;
  }
  SKIM_CHECK(false);
}

float* AttentionScratch::Reserve(size_t floats) {
  const size_t lines = (floats + 15) / 16;
  if (lines_.size() < lines) lines_.resize(lines);
  return lines_.empty() ? nullptr : lines_.data()->values;
}

void CpuAttention(ThreadPool& pool, Isa isa, AttentionScratch& scratch, const AttentionArgs& args,
                  const AttentionRows& rows, const KvLayer& kv) {
  const KvLayout& layout = kv.layout;
  SKIM_CHECK(layout.head_dim > 0 && layout.head_dim <= kMaxHeadDim && layout.head_dim % 2 == 0);
  SKIM_CHECK(layout.page_tokens % kKeyGroup == 0 && kAttentionBlock % layout.page_tokens == 0);
  SKIM_CHECK(layout.kv_heads > 0 && args.heads % layout.kv_heads == 0);
  AttentionRun run(AttentionKernelsOf(isa), args, rows, kv, pool.threads(), scratch);
  pool.Run([&](int thread) { run.Accumulate(thread); });
  if (run.anything_left()) pool.Run([&](int thread) { run.MergeLeft(thread); });
}

}  // namespace skim
