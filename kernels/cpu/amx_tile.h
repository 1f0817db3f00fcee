// The AMX tile instructions behind one interface, twice: AmxTiles executes them,
// EmulatedAmxTiles computes what they are documented to do, so that packing and loops can be
// tested on machines without AMX. Eight tiles of up to 16 rows x 64 bytes. Row counts of
// the tiles come from Configure, which also clears them all.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include "base/check.h"

namespace skim {

inline constexpr int kAmxTiles = 8;
inline constexpr int kAmxTileRows = 16;
inline constexpr int kAmxRowBytes = 64;

// The operand of LDTILECFG (palette 1).
struct alignas(64) AmxConfig {
  uint8_t palette = 1;
  uint8_t start_row = 0;
  uint8_t reserved[14] = {};
  uint16_t row_bytes[16] = {};
  uint8_t rows[16] = {};
};
static_assert(sizeof(AmxConfig) == 64);

namespace {

// Written in assembly: the intrinsics of GCC 12 do not tell the compiler that they read and
// write memory, and take tile numbers as literals only.
struct AmxTiles {
  static void Configure(const AmxConfig& config) { __asm__ volatile("ldtilecfg %0" ::"m"(config)); }
  static void Release() { __asm__ volatile("tilerelease" ::: "memory"); }
  template <int kTile>
  static void Zero() {
    __asm__ volatile("tilezero %%tmm%c0" ::"i"(kTile));
  }
  template <int kTile>
  static void Load(const void* from, int64_t stride_bytes) {
    __asm__ volatile("tileloadd (%0,%1,1), %%tmm%c2" ::"r"(from), "r"(stride_bytes), "i"(kTile)
                     : "memory");
  }
  template <int kTile>
  static void Store(void* to, int64_t stride_bytes) {
    __asm__ volatile("tilestored %%tmm%c2, (%0,%1,1)" ::"r"(to), "r"(stride_bytes), "i"(kTile)
                     : "memory");
  }
  // C [rows of A, 16] += A [rows, 32 bf16] B [16 pairs, 16 columns x 2]
  template <int kC, int kA, int kB>
  static void DotBf16() {
    __asm__ volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(kC), "i"(kA), "i"(kB));
  }
  // C [rows of A, 16] += A [rows, 64 int8] B [16 fours, 16 columns x 4 uint8], int32
  template <int kC, int kA, int kB>
  static void DotInt8() {
    __asm__ volatile("tdpbsud %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(kC), "i"(kA), "i"(kB));
  }
};

}  // namespace

class EmulatedAmxTiles {
 public:
  void Configure(const AmxConfig& config) {
    SKIM_CHECK(config.palette == 1 && config.start_row == 0);
    for (int t = 0; t < kAmxTiles; ++t) {
      SKIM_CHECK(config.rows[t] <= kAmxTileRows && config.row_bytes[t] <= kAmxRowBytes);
    }
    config_ = config;
    std::memset(bytes_, 0, sizeof bytes_);
  }
  void Release() { config_ = {}; }

  template <int kTile>
  void Zero() {
    std::memset(bytes_[kTile], 0, sizeof bytes_[kTile]);
  }

  template <int kTile>
  void Load(const void* from, int64_t stride_bytes) {
    SKIM_CHECK(config_.rows[kTile] > 0);  // #UD on hardware
    Zero<kTile>();
    for (int r = 0; r < config_.rows[kTile]; ++r) {
      std::memcpy(bytes_[kTile][r], static_cast<const char*>(from) + r * stride_bytes,
                  config_.row_bytes[kTile]);
    }
  }

  template <int kTile>
  void Store(void* to, int64_t stride_bytes) const {
    SKIM_CHECK(config_.rows[kTile] > 0);
    for (int r = 0; r < config_.rows[kTile]; ++r) {
      std::memcpy(static_cast<char*>(to) + r * stride_bytes, bytes_[kTile][r],
                  config_.row_bytes[kTile]);
    }
  }

  // TDPBF16PS: products of even and of odd k are summed apart by fused multiply-add, from
  // zero; then even + odd is added to C. Denormal inputs and results count as zero.
  template <int kC, int kA, int kB>
  void DotBf16() {
    CheckShapes(kC, kA, kB);
    for (int m = 0; m < config_.rows[kC]; ++m) {
      for (int n = 0; n < config_.row_bytes[kC] / 4; ++n) {
        float sum[2] = {};
        for (int k = 0; k < config_.rows[kB]; ++k) {
          for (int odd = 0; odd < 2; ++odd) {
            const float a = Bf16At(kA, m, 2 * k + odd), b = Bf16At(kB, k, 2 * n + odd);
            sum[odd] = Flush(std::fma(a, b, sum[odd]));
          }
        }
        float c;
        std::memcpy(&c, &bytes_[kC][m][4 * n], sizeof c);
        c = Flush(Flush(c) + Flush(sum[0] + sum[1]));
        std::memcpy(&bytes_[kC][m][4 * n], &c, sizeof c);
      }
    }
  }

  // TDPBSUD: A signed, B unsigned, exact.
  template <int kC, int kA, int kB>
  void DotInt8() {
    CheckShapes(kC, kA, kB);
    for (int m = 0; m < config_.rows[kC]; ++m) {
      for (int n = 0; n < config_.row_bytes[kC] / 4; ++n) {
        int32_t c;
        std::memcpy(&c, &bytes_[kC][m][4 * n], sizeof c);
        for (int k = 0; k < config_.row_bytes[kA]; ++k) {
          c += static_cast<int8_t>(bytes_[kA][m][k]) *
               static_cast<uint8_t>(bytes_[kB][k / 4][4 * n + k % 4]);
        }
        std::memcpy(&bytes_[kC][m][4 * n], &c, sizeof c);
      }
    }
  }

 private:
  void CheckShapes(int c, int a, int b) const {
    SKIM_CHECK(config_.rows[c] == config_.rows[a]);
    SKIM_CHECK(config_.row_bytes[a] == 4 * config_.rows[b]);
    SKIM_CHECK(config_.row_bytes[c] == config_.row_bytes[b]);
  }

  static float Flush(float x) { return std::fpclassify(x) == FP_SUBNORMAL ? 0.0f : x; }

  float Bf16At(int tile, int row, int column) const {
    uint16_t bits;
    std::memcpy(&bits, &bytes_[tile][row][2 * column], sizeof bits);
    const uint32_t wide = uint32_t{bits} << 16;
    float f;
    std::memcpy(&f, &wide, sizeof f);
    return Flush(f);
  }

  AmxConfig config_;
  char bytes_[kAmxTiles][kAmxTileRows][kAmxRowBytes] = {};
};

}  // namespace skim
