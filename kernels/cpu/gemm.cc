#include "kernels/cpu/gemm.h"

#include <algorithm>
#include <cstring>

#include "base/check.h"

namespace skim {
namespace {

// Rows whose accumulators a thread keeps while it walks the chunks of a group (48 KiB).
constexpr int64_t kRowBlock = 192;
// Pairs of K per chunk. A group's chunk (256 bytes a pair) is read once from memory and
// then, for every further tile of rows, from the L1 or L2 cache. Few rows take short
// chunks, so that fetching the next one hides behind little work; many take long ones, so
// that accumulators travel less.
constexpr int64_t kShortChunkPairs = 128;
constexpr int64_t kLongChunkPairs = 512;
constexpr int64_t kFewRows = 16;
// Reading a block from memory costs about as much time as this many tiles of arithmetic.
constexpr int64_t kStreamCostTiles = 4;

int64_t CeilDiv(int64_t a, int64_t b) { return (a + b - 1) / b; }

AlignedMemory AllocateOrDie(size_t bytes) {
  auto memory = AlignedMemory::Allocate(bytes);
  SKIM_CHECK(memory.ok());
  return *std::move(memory);
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
  int64_t pair, pair_end;
};

// The order in which a thread reads its weights: as they lie in memory.
struct ChunkWalk {
  const CpuPackedWeight& weight;
  int64_t block_end;
  int64_t chunk_pairs;

  Chunk At(int64_t block, int64_t pair) const {
    return {block, std::min(block_end, (block / kGroupBlocks + 1) * kGroupBlocks), pair,
            std::min(weight.pairs(), pair + chunk_pairs)};
  }
  Chunk Next(const Chunk& chunk) const {
    return chunk.pair_end < weight.pairs() ? At(chunk.block, chunk.pair_end)
                                           : At(chunk.block_end, 0);
  }
};

}  // namespace

struct Gemm::Share {
  int64_t row_begin, row_end;
  int64_t block_begin, block_end;
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
      accumulators_(AllocateOrDie(pool->threads() * kRowBlock * kTileColumns * sizeof(float))) {}

Matrix<const Bf16> Gemm::PadToWholeTiles(Matrix<const Bf16> x, int64_t padded_k) {
  if (x.cols == padded_k) return x;
  const size_t bytes = x.rows * padded_k * sizeof(Bf16);
  if (padded_x_.size() < bytes) padded_x_ = AllocateOrDie(bytes);
  Matrix<Bf16> padded{reinterpret_cast<Bf16*>(padded_x_.data()), x.rows, padded_k, padded_k};
  for (int64_t r = 0; r < x.rows; ++r) {
    std::memcpy(padded.Row(r), x.Row(r), x.cols * sizeof(Bf16));
    std::fill_n(padded.Row(r) + x.cols, padded_k - x.cols, Bf16{});
  }
  return padded;
}

template <typename Store>
void Gemm::Run(Matrix<const Bf16> x, const CpuPackedWeight& weight, const Store& store) {
  if (x.rows == 0) return;
  x = PadToWholeTiles(x, weight.padded_k());
  // A gate block and its up block stay together.
  const int64_t unit = weight.shape() == WeightShape::kGateUp ? 2 : 1;
  const int64_t units = weight.blocks() / unit;
  const int64_t row_tiles = CeilDiv(x.rows, kernels_.max_rows);
  const int threads = pool_->threads();
  const int row_parts = RowParts(threads, row_tiles, units);
  const int column_parts = threads / row_parts;
  pool_->Run([&](int t) {
    const int64_t i = t / column_parts, j = t % column_parts;
    Share share;
    share.row_begin = row_tiles * i / row_parts * kernels_.max_rows;
    share.row_end = std::min(x.rows, row_tiles * (i + 1) / row_parts * kernels_.max_rows);
    share.block_begin = units * j / column_parts * unit;
    share.block_end = units * (j + 1) / column_parts * unit;
    float* acc = reinterpret_cast<float*>(accumulators_.data()) + t * kRowBlock * kTileColumns;
    RunShare(share, x, weight, acc, store);
  });
}

template <typename Store>
void Gemm::RunShare(const Share& share, Matrix<const Bf16> x, const CpuPackedWeight& weight,
                    float* acc, const Store& store) const {
  const int64_t share_rows = share.row_end - share.row_begin;
  const bool prefetch = share_rows >= kernels_.prefetch_from_rows;
  const ChunkWalk walk{weight, share.block_end,
                       share_rows <= kFewRows ? kShortChunkPairs : kLongChunkPairs};
  int configured_rows = 0;
  for (int64_t row0 = share.row_begin; row0 < share.row_end; row0 += kRowBlock) {
    const int64_t rows = std::min(kRowBlock, share.row_end - row0);
    const int64_t tiles = CeilDiv(rows, kernels_.max_rows);
    Chunk chunk = walk.At(share.block_begin, 0), next;
    for (; chunk.block < share.block_end; chunk = next) {
      next = walk.Next(chunk);
      const bool whole_k = chunk.pair == 0 && chunk.pair_end == weight.pairs();
      const bool last = chunk.pair_end == weight.pairs();
      GemmTile tile{.x = nullptr,
                    .x_stride = x.stride,
                    .w = weight.Block(chunk.block) + chunk.pair * weight.LineStride(chunk.block),
                    .w_stride = weight.LineStride(chunk.block),
                    .acc = acc,
                    .pairs = chunk.pair_end - chunk.pair,
                    .rows = 0,
                    .width = static_cast<int>(chunk.block_end - chunk.block),
                    .from_zero = chunk.pair == 0,
                    .prefetch = nullptr,
                    .prefetch_end = nullptr,
                    .prefetch_lines = static_cast<int>(CeilDiv(kGroupBlocks, tiles)),
                    .configured_rows = &configured_rows};
      if (prefetch && next.block < share.block_end) {
        const uint16_t* lines = weight.Block(next.block);
        const int64_t stride = weight.LineStride(next.block);
        tile.prefetch = reinterpret_cast<const char*>(lines + next.pair * stride);
        tile.prefetch_end = reinterpret_cast<const char*>(lines + next.pair_end * stride);
      }
      for (int64_t i = 0; i < tiles; ++i) {
        const int64_t from = kernels_.even_tiles ? rows * i / tiles : i * kernels_.max_rows;
        const int64_t to =
            kernels_.even_tiles ? rows * (i + 1) / tiles : std::min(rows, from + kernels_.max_rows);
        tile.x = reinterpret_cast<const uint16_t*>(x.Row(row0 + from) + 2 * chunk.pair);
        if (!whole_k) tile.acc = acc + from * kTileColumns;
        tile.rows = static_cast<int>(to - from);
        kernels_.tile(tile);
        if (tile.prefetch != nullptr) {
          tile.prefetch =
              std::min(tile.prefetch + tile.pairs * tile.prefetch_lines * 64, tile.prefetch_end);
        }
        if (last) store(row0 + from, tile.rows, chunk.block, tile.width, tile.acc);
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
