// AVX-512 BF16. One VDPBF16PS takes a line of weights (16 columns x 2 k) and a pair of x
// broadcast to all lanes. 6 rows x 4 blocks = 24 accumulators, 4 lines and a broadcast fill
// the 32 registers: more than enough independent sums to hide the instruction's latency
// (about 6 cycles), and 10 loads for 24 products.
#include <immintrin.h>

#include "kernels/cpu/gemm_kernels.h"
#include "kernels/cpu/gemm_store.h"

namespace skim {
namespace {

constexpr int kMaxRows = 6;

// How 64 bytes of packed weights become an operand. Other formats differ here only.
struct Bf16Lines {
  [[gnu::always_inline]] static inline __m512bh Load(const uint16_t* line) {
    return reinterpret_cast<__m512bh>(_mm512_load_si512(line));
  }
};

[[gnu::always_inline]] inline __m512bh BroadcastPair(const uint16_t* x) {
  int pair;
  __builtin_memcpy(&pair, x, sizeof pair);
  return reinterpret_cast<__m512bh>(_mm512_set1_epi32(pair));
}

template <int R, int C, class Lines>
void Tile(const GemmTile& t) {
  __m512 acc[R][C];
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
    for (int c = 0; c < C; ++c) {
      acc[r][c] =
          t.from_zero ? _mm512_setzero_ps() : _mm512_loadu_ps(t.acc + r * kTileColumns + c * 16);
    }
  }
  const uint16_t* line = t.w;
  const uint16_t* x = t.x;
  const char* prefetch = t.prefetch;
#pragma GCC unroll 2
  for (int64_t p = 0; p < t.pairs; ++p, x += 2, line += t.w_stride) {
    for (int i = 0; i < t.prefetch_lines && prefetch < t.prefetch_end; ++i, prefetch += 64) {
      _mm_prefetch(prefetch, _MM_HINT_T1);
    }
    __m512bh w[C];
#pragma GCC unroll 4
    for (int c = 0; c < C; ++c) w[c] = Lines::Load(line + c * 32);
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      const __m512bh pair = BroadcastPair(x + r * t.x_stride);
#pragma GCC unroll 4
      for (int c = 0; c < C; ++c) acc[r][c] = _mm512_dpbf16_ps(acc[r][c], pair, w[c]);
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
    for (int c = 0; c < C; ++c) _mm512_storeu_ps(t.acc + r * kTileColumns + c * 16, acc[r][c]);
  }
}

template <class Lines>
void AnyTile(const GemmTile& t) {
  using Function = void (*)(const GemmTile&);
  static constexpr Function kTiles[kMaxRows][4] = {
      {Tile<1, 1, Lines>, Tile<1, 2, Lines>, Tile<1, 3, Lines>, Tile<1, 4, Lines>},
      {Tile<2, 1, Lines>, Tile<2, 2, Lines>, Tile<2, 3, Lines>, Tile<2, 4, Lines>},
      {Tile<3, 1, Lines>, Tile<3, 2, Lines>, Tile<3, 3, Lines>, Tile<3, 4, Lines>},
      {Tile<4, 1, Lines>, Tile<4, 2, Lines>, Tile<4, 3, Lines>, Tile<4, 4, Lines>},
      {Tile<5, 1, Lines>, Tile<5, 2, Lines>, Tile<5, 3, Lines>, Tile<5, 4, Lines>},
      {Tile<6, 1, Lines>, Tile<6, 2, Lines>, Tile<6, 3, Lines>, Tile<6, 4, Lines>}};
  kTiles[t.rows - 1][t.width - 1](t);
}

void Finish() {}

}  // namespace

const GemmKernels kGemmAvx512 = {.max_rows = kMaxRows,
                                 .even_tiles = true,
                                 .prefetch_from_rows = kMaxRows,
                                 .tile = AnyTile<Bf16Lines>,
                                 .store_linear = StoreLinearAvx512,
                                 .store_swiglu = StoreSwiGluAvx512,
                                 .finish = Finish};

}  // namespace skim
