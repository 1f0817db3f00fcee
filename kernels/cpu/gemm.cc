#include "kernels/cpu/gemm.h"

#include <algorithm>
#include <cstring>

#include "base/check.h"

namespace skim {
namespace {

// Rows whose accumulators a thread keeps while it walks the chunks of a group (48 KiB).
constexpr int64_t kRowBlock = 192;
// Lines of a block per chunk. A group's chunk (256 bytes a line) is read once from memory
// and then, for every further tile of rows, from the L1 or L2 cache. Few rows take short
// chunks (FormatKernels::chunk_lines), two of which fit the L1 cache: the one in use and the
// one being fetched. Many take long ones, so that accumulators travel less.
constexpr int64_t kLongChunkLines = 512;
// A single tile of rows reads each line once: there, the lines so much further on are fetched.
constexpr int64_t kAheadBytes = 8192;
constexpr int64_t kFewRows = 16;
// Quantising so many elements takes no longer than waiting for the other threads.
constexpr int64_t kQuantizeAloneElements = 16384;
// Reading a block from memory costs about as much time as this many tiles of arithmetic.
constexpr int64_t kStreamCostTiles = 4;

int64_t CeilDiv(int64_t a, int64_t b) { return (a + b - 1) / b; }

AlignedMemory AllocateOrDie(size_t bytes) {
  auto memory = AlignedMemory::Allocate(bytes);
  SKIM_CHECK(memory.ok());
  return *std::move(memory);
}

void Reserve(AlignedMemory& memory, size_t bytes) {
  if (memory.size() < bytes) memory = AllocateOrDie(bytes);
}

bool QuantizesInput(WeightFormat format) {
  return format == WeightFormat::kInt8 || format == WeightFormat::kInt4;
}

// Bytes to fetch per line of a tile for the next chunk to be there when the last of the tiles
// is through with this one.
int PrefetchPace(const FormatKernels& kernels, int64_t tiles) {
  const int64_t over = std::max<int64_t>(1, tiles / kernels.prefetch_early);
  return static_cast<int>(CeilDiv(kGroupBlocks * kLineBytes, over));
}

// Threads along the rows (the rest go along the columns) with the least work for the
// busiest thread; fewer is better, as each reads all its weights.
int RowParts(int threads, int64_t row_tiles, int64_t column_units) {
  int best = 1;
  int64_t best_cost = INT64_MAX;
  for (int parts = 1; parts <= threads; ++parts) {
    if (threads % parts != 0) continue;
    const int64_t cost =
        (CeilDiv(row_tiles, parts) + kStreamCostTiles) * CeilDiv(column_units, threads / parts);
    if (cost < best_cost) {
      best = parts;
      best_cost = cost;
    }
  }
  return best;
}

// The blocks of one group (or a part of it) over a stretch of K.
struct Chunk {
  int64_t block, block_end;
  int64_t step, step_end;
};

// The order in which a thread reads its weights: as they lie in memory.
struct ChunkWalk {
  const CpuPackedWeight& weight;
  int64_t block_end;
  int64_t chunk_steps;

  Chunk At(int64_t block, int64_t step) const {
    return {block, std::min(block_end, (block / kGroupBlocks + 1) * kGroupBlocks), step,
            std::min(weight.steps(), step + chunk_steps)};
  }
  Chunk Next(const Chunk& chunk) const {
    return chunk.step_end < weight.steps() ? At(chunk.block, chunk.step_end)
                                           : At(chunk.block_end, 0);
  }
};

// Rows of x quantised for one weight, in one stretch of memory: codes, then what the format
// wants beside them.
class QuantizedRows {
 public:
  QuantizedRows(const CpuPackedWeight& weight, int64_t rows)
      : grouped_(weight.format() == WeightFormat::kInt4),
        rotate_(weight.rotated()),
        rows_(rows),
        padded_k_(weight.padded_k()) {}

  int64_t Bytes() const {
    const int64_t beside = grouped_ ? groups_per_row() * int64_t{sizeof(InputGroup)}
                                    : int64_t{sizeof(float) + sizeof(int32_t)};
    return CeilDiv(rows_ * (padded_k_ + beside), 64) * 64;
  }
  void SetMemory(std::byte* memory) { memory_ = memory; }

  int64_t padded_k() const { return padded_k_; }
  int64_t groups_per_row() const { return padded_k_ / kInt4Group; }
  int8_t* codes(int64_t row) const { return reinterpret_cast<int8_t*>(memory_) + row * padded_k_; }
  InputGroup* groups() const { return grouped_ ? Beside<InputGroup>() : nullptr; }
  float* scales() const { return grouped_ ? nullptr : Beside<float>(); }
  int32_t* sums() const { return grouped_ ? nullptr : Beside<int32_t>() + rows_; }

  void Quantize(const GemmKernels& kernels, Matrix<const Bf16> x, int64_t begin,
                int64_t end) const {
    for (int64_t r = begin; r < end; ++r) {
      const auto* from = reinterpret_cast<const uint16_t*>(x.Row(r));
      if (grouped_) {
        kernels.quantize_groups(
            {from, x.cols, padded_k_, codes(r), groups() + r * groups_per_row()});
      } else {
        kernels.quantize_row(
            {from, x.cols, padded_k_, rotate_, codes(r), scales() + r, sums() + r});
      }
    }
  }

 private:
  template <typename T>
  T* Beside() const {
    return reinterpret_cast<T*>(memory_ + rows_ * padded_k_);
  }

  bool grouped_, rotate_;
  int64_t rows_;
  int64_t padded_k_;  // multiple of 64
  std::byte* memory_ = nullptr;
};

}  // namespace

struct Gemm::Share {
  int64_t row_begin, row_end;
  int64_t block_begin, block_end;
};

struct Gemm::Input {
  const std::byte* rows;  // bf16, or int8 codes
  int64_t stride;         // elements
  int64_t element_bytes;
  const float* scales = nullptr;  // int8
  const int32_t* sums = nullptr;
  const InputGroup* groups = nullptr;  // int4, [rows][groups_stride]
  int64_t groups_stride = 0;

  explicit Input(Matrix<const Bf16> x)
      : rows(reinterpret_cast<const std::byte*>(x.data)),
        stride(x.stride),
        element_bytes(sizeof(Bf16)) {}
  explicit Input(const QuantizedRows& x)
      : rows(reinterpret_cast<const std::byte*>(x.codes(0))),
        stride(x.padded_k()),
        element_bytes(1),
        scales(x.scales()),
        sums(x.sums()),
        groups(x.groups()),
        groups_stride(x.groups_per_row()) {}

  const std::byte* At(int64_t row, int64_t k) const {
    return rows + (row * stride + k) * element_bytes;
  }
  const InputGroup* GroupsAt(int64_t row, int64_t k) const {
    return groups == nullptr ? nullptr : groups + row * groups_stride + k / kInt4Group;
  }
};

const GemmKernels& GemmKernelsOf(Isa isa) {
  switch (isa) {
    case Isa::kAmx:
      return kGemmAmx;
    case Isa::kAvx512:
      return kGemmAvx512;
    case Isa::kAvx2:
      return kGemmAvx2;
    case Isa::kPlain:
      break;
  }
  return kGemmPlain;
}

Gemm::Gemm(ThreadPool* pool, const GemmKernels& kernels)
    : pool_(pool),
      kernels_(kernels),
      accumulators_(AllocateOrDie(pool->threads() * kRowBlock * kTileColumns * sizeof(float))) {
  for (const FormatKernels& format : kernels.formats) {
    if (format.expand == nullptr) continue;
    Reserve(expanded_, pool->threads() * 2 * kLongChunkLines * kGroupBlocks * kLineBytes);
  }
}

void Gemm::PadRows(Matrix<const Bf16> x, int64_t padded_k) {
  Reserve(input_, x.rows * padded_k * sizeof(Bf16));
  Matrix<Bf16> padded{reinterpret_cast<Bf16*>(input_.data()), x.rows, padded_k, padded_k};
  for (int64_t r = 0; r < x.rows; ++r) {
    std::memcpy(padded.Row(r), x.Row(r), x.cols * sizeof(Bf16));
    std::fill_n(padded.Row(r) + x.cols, padded_k - x.cols, Bf16{});
  }
}

template <typename Store>
void Gemm::Run(Matrix<const Bf16> x, const CpuPackedWeight& weight, const Store& store) {
  if (x.rows == 0) return;
  const FormatKernels& kernels = kernels_.Of(weight.format());
  const int threads = pool_->threads();
  // Few rows are quantised by every thread for itself: that takes less than waiting.
  const bool quantize = QuantizesInput(weight.format());
  QuantizedRows quantized(weight, x.rows);
  const bool alone = x.rows * quantized.padded_k() <= kQuantizeAloneElements;
  if (quantize) {
    Reserve(input_, (alone ? threads : 1) * quantized.Bytes());
    quantized.SetMemory(input_.data());
    if (!alone) {
      pool_->Split(x.rows, 1, [&](int64_t begin, int64_t end) {
        quantized.Quantize(kernels_, x, begin, end);
      });
    }
  } else if (x.cols != weight.padded_k()) {
    PadRows(x, weight.padded_k());
    x = {reinterpret_cast<const Bf16*>(input_.data()), x.rows, weight.padded_k(),
         weight.padded_k()};
  }

  // A gate block and its up block stay together.
  const int64_t unit = weight.shape() == WeightShape::kGateUp ? 2 : 1;
  const int64_t units = weight.blocks() / unit;
  const int64_t row_tiles = CeilDiv(x.rows, kernels.max_rows);
  const int row_parts = RowParts(threads, row_tiles, units);
  const int column_parts = threads / row_parts;
  pool_->Run([&](int t) {
    const int64_t i = t / column_parts, j = t % column_parts;
    Share share;
    share.row_begin = row_tiles * i / row_parts * kernels.max_rows;
    share.row_end = std::min(x.rows, row_tiles * (i + 1) / row_parts * kernels.max_rows);
    share.block_begin = units * j / column_parts * unit;
    share.block_end = units * (j + 1) / column_parts * unit;
    if (!quantize) return RunShare(share, Input(x), weight, t, store);
    QuantizedRows rows = quantized;
    if (alone) {
      rows.SetMemory(input_.data() + t * rows.Bytes());
      rows.Quantize(kernels_, x, share.row_begin, share.row_end);
    }
    RunShare(share, Input(rows), weight, t, store);
  });
}

template <typename Store>
void Gemm::RunShare(const Share& share, const Input& x, const CpuPackedWeight& weight, int thread,
                    const Store& store) {
  const FormatKernels& kernels = kernels_.Of(weight.format());
  const WeightStep& step = weight.step();
  auto* acc = reinterpret_cast<float*>(accumulators_.data()) + thread * kRowBlock * kTileColumns;
  auto* const expanded = reinterpret_cast<uint8_t*>(expanded_.data()) +
                         thread * 2 * kLongChunkLines * kGroupBlocks * kLineBytes;
  const int64_t share_rows = share.row_end - share.row_begin;
  const bool expand = kernels.expand != nullptr && share_rows >= kernels.expand_from_rows;
  const bool prefetch = share_rows >= kernels.prefetch_from_rows;
  const int64_t chunk_lines = share_rows <= kFewRows ? kernels.chunk_lines : kLongChunkLines;
  const char* const end =
      reinterpret_cast<const char*>(weight.Lines(share.block_end - 1, weight.steps()));
  const ChunkWalk walk{weight, share.block_end, chunk_lines / step.lines};
  int configured_rows = 0;
  for (int64_t row0 = share.row_begin; row0 < share.row_end; row0 += kRowBlock) {
    const int64_t rows = std::min(kRowBlock, share.row_end - row0);
    const int64_t tiles = CeilDiv(rows, kernels.max_rows);
    Chunk chunk = walk.At(share.block_begin, 0), next;
    for (; chunk.block < share.block_end; chunk = next) {
      next = walk.Next(chunk);
      const bool whole_k = chunk.step == 0 && chunk.step_end == weight.steps();
      const bool last = chunk.step_end == weight.steps();
      const int64_t k = chunk.step * step.k;
      GemmTile tile{.x = nullptr,
                    .x_stride = x.stride,
                    .w = weight.Lines(chunk.block, chunk.step),
                    .w_stride = weight.LineStride(chunk.block),
                    .acc = acc,
                    .lines = (chunk.step_end - chunk.step) * step.lines,
                    .rows = 0,
                    .width = static_cast<int>(chunk.block_end - chunk.block),
                    .from_zero = chunk.step == 0,
                    .x_groups = nullptr,
                    .x_groups_stride = x.groups_stride,
                    .prefetch = nullptr,
                    .prefetch_end = nullptr,
                    .prefetch_pace = static_cast<int>(PrefetchPace(kernels, tiles)),
                    .configured_rows = &configured_rows};
      if (expand) {
        kernels.expand({tile.w, tile.w_stride, tile.lines, tile.width, expanded});
        tile.w = expanded;
        tile.w_stride = tile.width * kLineBytes;
        tile.lines *= 2;
        tile.prefetch_pace /= 2;
      }
      if (prefetch && tiles == 1) {
        tile.prefetch = reinterpret_cast<const char*>(tile.w) + kAheadBytes;
        tile.prefetch_end = end;
      } else if (prefetch && next.block < share.block_end) {
        tile.prefetch = reinterpret_cast<const char*>(weight.Lines(next.block, next.step));
        tile.prefetch_end = reinterpret_cast<const char*>(weight.Lines(next.block, next.step_end));
      }
      for (int64_t i = 0; i < tiles; ++i) {
        const int64_t from = kernels.even_tiles ? rows * i / tiles : i * kernels.max_rows;
        const int64_t to =
            kernels.even_tiles ? rows * (i + 1) / tiles : std::min(rows, from + kernels.max_rows);
        const int64_t row = row0 + from;
        tile.x = x.At(row, k);
        tile.x_groups = x.GroupsAt(row, k);
        if (!whole_k) tile.acc = acc + from * kTileColumns;
        tile.rows = static_cast<int>(to - from);
        (expand ? kernels.expanded_tile : kernels.tile)(tile);
        if (tile.prefetch != nullptr) {
          tile.prefetch = std::min(tile.prefetch + tile.lines * tile.prefetch_pace / 64 * 64,
                                   tile.prefetch_end);
        }
        if (!last) continue;
        if (const float* scales = weight.column_scales(); scales != nullptr) {
          kernels_.scale({.format = weight.format(),
                          .acc = tile.acc,
                          .rows = tile.rows,
                          .width = tile.width,
                          .column_scales = scales + chunk.block * kBlockColumns,
                          .row_scales = x.scales == nullptr ? nullptr : x.scales + row,
                          .row_sums = x.sums == nullptr ? nullptr : x.sums + row});
        }
        store(row, tile.rows, chunk.block, tile.width, tile.acc);
      }
    }
  }
  kernels_.finish();
}

void Gemm::Linear(Matrix<const Bf16> x, const CpuPackedWeight& weight, const float* bias,
                  bool accumulate, Matrix<float> y) {
  SKIM_CHECK(weight.shape() == WeightShape::kPlain && x.rows == y.rows);
  SKIM_CHECK(x.cols == weight.in_features() && y.cols == weight.out_features());
  Run(x, weight, [&](int64_t row, int rows, int64_t block, int width, const float* acc) {
    const int64_t column = block * kBlockColumns;
    kernels_.store_linear({.acc = acc,
                           .bias = bias != nullptr ? bias + column : nullptr,
                           .y = y.Row(row) + column,
                           .y_stride = y.stride,
                           .rows = rows,
                           .columns = std::min(width * kBlockColumns, y.cols - column),
                           .accumulate = accumulate});
  });
}

void Gemm::LinearSwiGlu(Matrix<const Bf16> x, const CpuPackedWeight& weight, const float* bias,
                        Matrix<Bf16> y) {
  SKIM_CHECK(weight.shape() == WeightShape::kGateUp && x.rows == y.rows);
  SKIM_CHECK(x.cols == weight.in_features() && 2 * y.cols == weight.out_features());
  Run(x, weight, [&](int64_t row, int rows, int64_t block, int width, const float* acc) {
    const int64_t column = block / 2 * kBlockColumns;
    kernels_.store_swiglu({.acc = acc,
                           .gate_bias = bias != nullptr ? bias + column : nullptr,
                           .up_bias = bias != nullptr ? bias + y.cols + column : nullptr,
                           .y = reinterpret_cast<uint16_t*>(y.Row(row) + column),
                           .y_stride = y.stride,
                           .rows = rows,
                           .columns = std::min(width / 2 * kBlockColumns, y.cols - column)});
  });
}

}  // namespace skim
