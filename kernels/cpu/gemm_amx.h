// The AMX micro-kernel as a template over the tile unit (amx_tile.h).
//
// 17 to 32 rows: a 2 x 2 arrangement, tiles 0-3 sums, 4-5 rows of x, 6-7 blocks of weights:
// four products for four loads. Up to 16 rows: 1 x 4, five loads for four products, each
// line of weights read once. A packed group is already what a B tile wants: 16 lines,
// `w_stride` apart, for 64 bytes of x: 32 bf16 or 64 int8. fp8 is expanded to bf16 before.
#pragma once

#include "kernels/cpu/amx_tile.h"
#include "kernels/cpu/gemm_kernels.h"
#include "kernels/cpu/gemm_prefetch.h"

namespace skim {
namespace {

inline constexpr int kAmxLines = 16;  // of weights per tile product

enum class AmxProduct { kBf16, kInt8 };

// Sums 0-1 belong to the first 16 rows, 2-3 to the rows beyond, or to the first as well.
[[maybe_unused]] AmxConfig AmxConfigFor(int rows) {
  const int first = rows < kAmxTileRows ? rows : kAmxTileRows;
  const int second = rows > kAmxTileRows ? rows - kAmxTileRows : first;
  AmxConfig config;
  const int counts[kAmxTiles] = {first, first,  second,       second,
                                 first, second, kAmxTileRows, kAmxTileRows};
  for (int t = 0; t < kAmxTiles; ++t) {
    config.rows[t] = static_cast<uint8_t>(counts[t]);
    config.row_bytes[t] = kAmxRowBytes;
  }
  return config;
}

template <class Tiles, AmxProduct kProduct>
class AmxTileKernel {
 public:
  AmxTileKernel(Tiles& tiles, const GemmTile& t)
      : tiles_(tiles), t_(t), prefetch_(t, t.rows > kAmxTileRows ? (t.width + 1) / 2 : 1) {}

  void Run() {
    if (*t_.configured_rows != t_.rows) {
      tiles_.Configure(AmxConfigFor(t_.rows));
      *t_.configured_rows = t_.rows;
    }
    if (t_.rows > kAmxTileRows) {
      for (int block = 0; block < t_.width; block += 2) {
        block + 1 < t_.width ? TwoByTwo<2>(block) : TwoByTwo<1>(block);
      }
      return;
    }
    switch (t_.width) {
      case 1:
        return OneBy<1>();
      case 2:
        return OneBy<2>();
      case 3:
        return OneBy<3>();
      default:
        return OneBy<4>();
    }
  }

 private:
  static constexpr int64_t kAccBytes = kTileColumns * sizeof(float);

  float* Acc(int row, int block) const { return t_.acc + row * kTileColumns + block * 16; }
  const uint8_t* Lines(int64_t line, int block) const {
    return t_.w + line * t_.w_stride + block * kAmxRowBytes;
  }
  int64_t XBytes() const { return t_.x_stride * (kProduct == AmxProduct::kBf16 ? 2 : 1); }
  const char* X(int64_t line, int row) const {
    return static_cast<const char*>(t_.x) + row * XBytes() + 4 * line;
  }

  template <int kC, int kA, int kB>
  void Dot() {
    if constexpr (kProduct == AmxProduct::kBf16) {
      tiles_.template DotBf16<kC, kA, kB>();
    } else {
      tiles_.template DotInt8<kC, kA, kB>();
    }
  }

  template <int kTile>
  void Begin(int row, int block) {
    if (t_.from_zero) {
      tiles_.template Zero<kTile>();
    } else {
      tiles_.template Load<kTile>(Acc(row, block), kAccBytes);
    }
  }
  template <int kTile>
  void End(int row, int block) {
    tiles_.template Store<kTile>(Acc(row, block), kAccBytes);
  }

  template <int kBlocks>
  void TwoByTwo(int block) {
    Begin<0>(0, block);
    Begin<2>(kAmxTileRows, block);
    if constexpr (kBlocks == 2) {
      Begin<1>(0, block + 1);
      Begin<3>(kAmxTileRows, block + 1);
    }
    for (int64_t l = 0; l < t_.lines; l += kAmxLines) {
      prefetch_.Lines(kAmxLines);
      tiles_.template Load<4>(X(l, 0), XBytes());
      tiles_.template Load<5>(X(l, kAmxTileRows), XBytes());
      tiles_.template Load<6>(Lines(l, block), t_.w_stride);
      Dot<0, 4, 6>();
      Dot<2, 5, 6>();
      if constexpr (kBlocks == 2) {
        tiles_.template Load<7>(Lines(l, block + 1), t_.w_stride);
        Dot<1, 4, 7>();
        Dot<3, 5, 7>();
      }
    }
    End<0>(0, block);
    End<2>(kAmxTileRows, block);
    if constexpr (kBlocks == 2) {
      End<1>(0, block + 1);
      End<3>(kAmxTileRows, block + 1);
    }
  }

  template <int kBlock>
  void Product(int64_t l) {
    constexpr int kWeights = 6 + kBlock % 2;
    tiles_.template Load<kWeights>(Lines(l, kBlock), t_.w_stride);
    Dot<kBlock, 4, kWeights>();
  }

  template <int kBlocks>
  void OneBy() {
    Begin<0>(0, 0);
    if constexpr (kBlocks > 1) Begin<1>(0, 1);
    if constexpr (kBlocks > 2) Begin<2>(0, 2);
    if constexpr (kBlocks > 3) Begin<3>(0, 3);
    for (int64_t l = 0; l < t_.lines; l += kAmxLines) {
      prefetch_.Lines(kAmxLines);
      tiles_.template Load<4>(X(l, 0), XBytes());
      Product<0>(l);
      if constexpr (kBlocks > 1) Product<1>(l);
      if constexpr (kBlocks > 2) Product<2>(l);
      if constexpr (kBlocks > 3) Product<3>(l);
    }
    End<0>(0, 0);
    if constexpr (kBlocks > 1) End<1>(0, 1);
    if constexpr (kBlocks > 2) End<2>(0, 2);
    if constexpr (kBlocks > 3) End<3>(0, 3);
  }

  Tiles& tiles_;
  const GemmTile& t_;
  WeightPrefetch prefetch_;
};

}  // namespace
}  // namespace skim
