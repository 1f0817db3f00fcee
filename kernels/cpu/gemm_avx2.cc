// AVX2 + FMA: bf16 and fp8 are widened to float, then even k before odd k; int8 and int4 are
// summed in int32.
#include <immintrin.h>

#include "kernels/cpu/gemm_kernels.h"
#include "kernels/cpu/gemm_prefetch.h"
#include "kernels/cpu/simd_exp.h"
#include "kernels/hadamard.h"

namespace skim {
namespace {

constexpr int kMaxRows = 4;

[[gnu::always_inline]] inline __m256i LoadBytes(const uint8_t* from) {
  return _mm256_load_si256(reinterpret_cast<const __m256i*>(from));
}

// How 64 bytes of packed weights become the factors of 16 columns x 2 k, once or more.
struct Bf16Lines {
  static constexpr int kPairs = 1;
  __m256 even[2], odd[2];  // columns 0-7 and 8-15

  [[gnu::always_inline]] Bf16Lines(const uint8_t* line, int) {
    const __m256i high = _mm256_set1_epi32(static_cast<int>(0xffff0000u));
#pragma GCC unroll 2
    for (int h = 0; h < 2; ++h) {
      const __m256i v = LoadBytes(line + 32 * h);
      even[h] = _mm256_castsi256_ps(_mm256_slli_epi32(v, 16));
      odd[h] = _mm256_castsi256_ps(_mm256_and_si256(v, high));
    }
  }
};

// Exponent and mantissa are shifted into place and multiplied by 2^120: exact for subnormal
// codes too, as no thread of the pool flushes denormals here.
struct Fp8Lines {
  static constexpr int kPairs = 2;
  __m256 even[2], odd[2];

  [[gnu::always_inline]] Fp8Lines(const uint8_t* line, int pair) {
#pragma GCC unroll 2
    for (int h = 0; h < 2; ++h) {
      int64_t first, second;
      __builtin_memcpy(&first, line + 32 * h + 8 * pair, sizeof first);
      __builtin_memcpy(&second, line + 32 * h + 16 + 8 * pair, sizeof second);
      const __m256i lanes = _mm256_cvtepu8_epi16(_mm_set_epi64x(second, first));
      even[h] = Value(_mm256_and_si256(lanes, _mm256_set1_epi32(0xff)));
      odd[h] = Value(_mm256_srli_epi32(lanes, 16));
    }
  }

  [[gnu::always_inline]] static __m256 Value(__m256i code) {
    const __m256i sign = _mm256_slli_epi32(_mm256_and_si256(code, _mm256_set1_epi32(0x80)), 24);
    const __m256i rest = _mm256_slli_epi32(_mm256_and_si256(code, _mm256_set1_epi32(0x7f)), 20);
    const __m256 bits = _mm256_castsi256_ps(_mm256_or_si256(sign, rest));
    return _mm256_mul_ps(bits, _mm256_set1_ps(0x1p120f));
  }
};

[[gnu::always_inline]] inline __m256 Broadcast(const uint16_t* bf16) {
  const uint32_t bits = uint32_t{*bf16} << 16;
  float f;
  __builtin_memcpy(&f, &bits, sizeof f);
  return _mm256_set1_ps(f);
}

[[gnu::always_inline]] inline int FourBytes(const int8_t* x) {
  int four;
  __builtin_memcpy(&four, x, sizeof four);
  return four;
}

template <int R, int C, class Lines>
void Block(const GemmTile& t, int block, WeightPrefetch& prefetch) {
  __m256 acc[R][C][2];
#pragma GCC unroll 4
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
    for (int c = 0; c < C; ++c) {
      const float* from = t.acc + r * kTileColumns + (block + c) * 16;
      acc[r][c][0] = t.from_zero ? _mm256_setzero_ps() : _mm256_loadu_ps(from);
      acc[r][c][1] = t.from_zero ? _mm256_setzero_ps() : _mm256_loadu_ps(from + 8);
    }
  }
  const uint8_t* line = t.w + block * 64;
  const auto* x = static_cast<const uint16_t*>(t.x);
  for (int64_t l = 0; l < t.lines; ++l, line += t.w_stride) {
    prefetch.Lines();
#pragma GCC unroll 2
    for (int pair = 0; pair < Lines::kPairs; ++pair, x += 2) {
#pragma GCC unroll 4
      for (int c = 0; c < C; ++c) {
        const Lines w(line + c * 64, pair);
#pragma GCC unroll 4
        for (int r = 0; r < R; ++r) {
          const __m256 x0 = Broadcast(x + r * t.x_stride);
          const __m256 x1 = Broadcast(x + r * t.x_stride + 1);
#pragma GCC unroll 2
          for (int h = 0; h < 2; ++h) {
            acc[r][c][h] = _mm256_fmadd_ps(x0, w.even[h], acc[r][c][h]);
            acc[r][c][h] = _mm256_fmadd_ps(x1, w.odd[h], acc[r][c][h]);
          }
        }
      }
    }
  }
#pragma GCC unroll 4
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
    for (int c = 0; c < C; ++c) {
      float* to = t.acc + r * kTileColumns + (block + c) * 16;
      _mm256_storeu_ps(to, acc[r][c][0]);
      _mm256_storeu_ps(to + 8, acc[r][c][1]);
    }
  }
}

// At least eight accumulators hide the latency of FMA; sixteen registers allow no more.
template <int R, int C, class Lines>
void Blocks(const GemmTile& t) {
  WeightPrefetch prefetch(t, t.width / C + t.width % C);
  int block = 0;
  for (; block + C <= t.width; block += C) Block<R, C, Lines>(t, block, prefetch);
  for (; block < t.width; ++block) Block<R, 1, Lines>(t, block, prefetch);
}

template <class Lines>
void FloatTile(const GemmTile& t) {
  switch (t.rows) {
    case 1:
      return Blocks<1, 4, Lines>(t);
    case 2:
      return Blocks<2, 2, Lines>(t);
    case 3:
      return Blocks<3, 1, Lines>(t);
    default:
      return Blocks<kMaxRows, 1, Lines>(t);
  }
}

// Columns [8 half, 8 half + 8) of a block. VPMADDUBSW would saturate with unsigned weights
// above 128, so both factors are widened to 16 bits and summed in pairs, two to a column.
template <int R>
void Int8Half(const GemmTile& t, int block, int half, WeightPrefetch& prefetch) {
  __m256i pairs[R][2];
#pragma GCC unroll 4
  for (int r = 0; r < R; ++r) pairs[r][0] = pairs[r][1] = _mm256_setzero_si256();
  const uint8_t* line = t.w + block * 64 + half * 32;
  const auto* x = static_cast<const int8_t*>(t.x);
  for (int64_t l = 0; l < t.lines; ++l, x += 4, line += t.w_stride) {
    prefetch.Lines();
    const __m256i bytes = LoadBytes(line);
    const __m256i w0 = _mm256_cvtepu8_epi16(_mm256_castsi256_si128(bytes));
    const __m256i w1 = _mm256_cvtepu8_epi16(_mm256_extracti128_si256(bytes, 1));
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r) {
      const __m256i four = _mm256_cvtepi8_epi16(_mm_set1_epi32(FourBytes(x + r * t.x_stride)));
      pairs[r][0] = _mm256_add_epi32(pairs[r][0], _mm256_madd_epi16(w0, four));
      pairs[r][1] = _mm256_add_epi32(pairs[r][1], _mm256_madd_epi16(w1, four));
    }
  }
#pragma GCC unroll 4
  for (int r = 0; r < R; ++r) {
    auto* to = reinterpret_cast<__m256i*>(t.acc + r * kTileColumns + block * 16 + half * 8);
    // HADD works within halves of a register: columns 0 1 4 5 2 3 6 7.
    const __m256i sums =
        _mm256_permute4x64_epi64(_mm256_hadd_epi32(pairs[r][0], pairs[r][1]), 0b11011000);
    _mm256_storeu_si256(to, t.from_zero ? sums : _mm256_add_epi32(_mm256_loadu_si256(to), sums));
  }
}

[[gnu::always_inline]] inline __m256 EightBf16(const void* from) {
  const __m128i bf16 = _mm_loadu_si128(static_cast<const __m128i*>(from));
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bf16), 16));
}

// Columns [8 half, 8 half + 8) of a block. Codes up to 15 leave VPMADDUBSW far from saturating.
template <int R>
void Int4Half(const GemmTile& t, int block, int half, WeightPrefetch& prefetch) {
  constexpr int kGroupLines = kInt4Group / 8;
  const __m256i low = _mm256_set1_epi8(15), ones = _mm256_set1_epi16(1);
  __m256 acc[R];
#pragma GCC unroll 4
  for (int r = 0; r < R; ++r) {
    const float* from = t.acc + r * kTileColumns + block * 16 + half * 8;
    acc[r] = t.from_zero ? _mm256_setzero_ps() : _mm256_loadu_ps(from);
  }
  const uint8_t* line = t.w + block * 64;
  const auto* x = static_cast<const int8_t*>(t.x);
  const InputGroup* x_group = t.x_groups;
  for (int64_t l = 0; l < t.lines; l += 2 + 2 * kGroupLines) {
    const uint8_t* scales = line + half * 16;
    const uint8_t* offsets = scales + t.w_stride;
    line += 2 * t.w_stride;
    prefetch.Lines(2);
    for (int group = 0; group < 2; ++group, scales += 32, offsets += 32, ++x_group) {
      __m256i sum[R];
#pragma GCC unroll 4
      for (int r = 0; r < R; ++r) sum[r] = _mm256_setzero_si256();
      for (int i = 0; i < kGroupLines; ++i, x += 8, line += t.w_stride) {
        prefetch.Lines();
        const __m256i codes = LoadBytes(line + half * 32);
        const __m256i first = _mm256_and_si256(codes, low);
        const __m256i second = _mm256_and_si256(_mm256_srli_epi16(codes, 4), low);
#pragma GCC unroll 4
        for (int r = 0; r < R; ++r) {
          const int8_t* from = x + r * t.x_stride;
          const __m256i x0 = _mm256_set1_epi32(FourBytes(from));
          const __m256i x1 = _mm256_set1_epi32(FourBytes(from + 4));
          const __m256i products =
              _mm256_add_epi16(_mm256_maddubs_epi16(first, x0), _mm256_maddubs_epi16(second, x1));
          sum[r] = _mm256_add_epi32(sum[r], _mm256_madd_epi16(products, ones));
        }
      }
      const __m256 scale = EightBf16(scales), offset = EightBf16(offsets);
#pragma GCC unroll 4
      for (int r = 0; r < R; ++r) {
        const InputGroup& in = x_group[r * t.x_groups_stride];
        const __m256 both = _mm256_mul_ps(scale, _mm256_set1_ps(in.scale));
        acc[r] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(sum[r]), both, acc[r]);
        acc[r] = _mm256_fmadd_ps(offset, _mm256_set1_ps(in.sum), acc[r]);
      }
    }
  }
#pragma GCC unroll 4
  for (int r = 0; r < R; ++r) {
    _mm256_storeu_ps(t.acc + r * kTileColumns + block * 16 + half * 8, acc[r]);
  }
}

struct Int8Halves {
  template <int R>
  static void Run(const GemmTile& t, int block, int half, WeightPrefetch& prefetch) {
    Int8Half<R>(t, block, half, prefetch);
  }
};
struct Int4Halves {
  template <int R>
  static void Run(const GemmTile& t, int block, int half, WeightPrefetch& prefetch) {
    Int4Half<R>(t, block, half, prefetch);
  }
};

template <class Halves>
void IntegerTile(const GemmTile& t) {
  WeightPrefetch prefetch(t, 2 * t.width);
  for (int half = 0; half < 2 * t.width; ++half) {
    switch (t.rows) {
      case 1:
        Halves::template Run<1>(t, half / 2, half % 2, prefetch);
        break;
      case 2:
        Halves::template Run<2>(t, half / 2, half % 2, prefetch);
        break;
      case 3:
        Halves::template Run<3>(t, half / 2, half % 2, prefetch);
        break;
      default:
        Halves::template Run<kMaxRows>(t, half / 2, half % 2, prefetch);
    }
  }
}

void Scale(const ScaleTile& s) {
  for (int r = 0; r < s.rows; ++r) {
    for (int c = 0; c < 16 * s.width; c += 8) {
      float* acc = s.acc + r * kTileColumns + c;
      __m256 v = _mm256_loadu_ps(acc);
      switch (s.format) {
        case WeightFormat::kBf16:
        case WeightFormat::kInt4:
          break;
        case WeightFormat::kFp8:
          v = _mm256_mul_ps(v, _mm256_loadu_ps(s.column_scales + c));
          break;
        case WeightFormat::kInt8: {
          const __m256i offset = _mm256_set1_epi32(128 * s.row_sums[r]);
          v = _mm256_cvtepi32_ps(_mm256_sub_epi32(_mm256_castps_si256(v), offset));
          v = _mm256_mul_ps(v, _mm256_loadu_ps(s.column_scales + c));
          v = _mm256_mul_ps(v, _mm256_set1_ps(s.row_scales[r]));
          break;
        }
      }
      _mm256_storeu_ps(acc, v);
    }
  }
}

// Floats without their sign compare as integers, so maxima are taken of bits: infinities and
// NaN come out on top.
__m256i LargestBits(const float* x, int count, __m256i so_far) {
  const __m256i no_sign = _mm256_set1_epi32(0x7fffffff);
  for (int k = 0; k < count; k += 8) {
    const __m256i bits = _mm256_castps_si256(_mm256_loadu_ps(x + k));
    so_far = _mm256_max_epi32(so_far, _mm256_and_si256(bits, no_sign));
  }
  return so_far;
}

struct InputScale {
  float scale;
  float inverse;  // 0 where all codes are to be 0

  explicit InputScale(__m256i largest_bits) {
    alignas(32) int32_t lanes[8];
    _mm256_store_si256(reinterpret_cast<__m256i*>(lanes), largest_bits);
    int32_t bits = 0;
    for (const int32_t lane : lanes) bits = lane > bits ? lane : bits;
    float largest;
    __builtin_memcpy(&largest, &bits, sizeof largest);
    const bool finite = bits < 0x7f800000;
    const bool zero = !finite || largest < kQuantizeFloor;
    scale = !finite ? __builtin_nanf("") : zero ? 0 : largest / 127.0f;
    inverse = zero ? 0 : 127.0f / largest;
  }
};

// Returns the sum of the codes.
int32_t Encode(const float* x, int count, const InputScale& scale, int8_t* codes) {
  if (scale.inverse == 0) {  // 0 x infinity is no code
    __builtin_memset(codes, 0, count);
    return 0;
  }
  const __m256 inverse = _mm256_set1_ps(scale.inverse);
  int32_t sum = 0;
  for (int k = 0; k < count; k += 8) {
    alignas(32) int32_t lanes[8];
    const __m256 scaled = _mm256_mul_ps(_mm256_loadu_ps(x + k), inverse);
    _mm256_store_si256(reinterpret_cast<__m256i*>(lanes), _mm256_cvtps_epi32(scaled));
    for (int j = 0; j < 8; ++j) {
      codes[k + j] = static_cast<int8_t>(lanes[j]);
      sum += lanes[j];
    }
  }
  return sum;
}

// Values [k, k + 64) of a row, zero from `columns` on.
void LoadBlock(const uint16_t* x, int64_t columns, int64_t k, float* out) {
  for (int i = 0; i < kRotation; i += 8) {
    uint16_t tail[8] = {};
    const uint16_t* from = x + k + i;
    const int64_t left = columns - k - i;
    if (left < 8) {
      for (int64_t j = 0; j < left; ++j) tail[j] = from[j];
      from = tail;
    }
    _mm256_storeu_ps(out + i, EightBf16(from));
  }
}

// Rotated twice rather than kept: a row may be long.
void QuantizeInputRow(const QuantizeRow& q) {
  float block[kRotation];
  const auto load = [&](int64_t k) {
    LoadBlock(q.x, q.columns, k, block);
    if (q.rotate) RotateBlock(block);
  };
  __m256i largest_bits = _mm256_setzero_si256();
  for (int64_t k = 0; k < q.padded; k += kRotation) {
    load(k);
    largest_bits = LargestBits(block, kRotation, largest_bits);
  }
  const InputScale scale(largest_bits);
  *q.sum = 0;
  for (int64_t k = 0; k < q.padded; k += kRotation) {
    load(k);
    *q.sum += Encode(block, kRotation, scale, q.codes + k);
  }
  *q.scale = scale.scale;
}

void QuantizeInputGroups(const QuantizeGroups& q) {
  float block[kRotation];
  for (int64_t k = 0; k < q.padded; k += kRotation) {
    LoadBlock(q.x, q.columns, k, block);
    for (int64_t at = k; at < k + kRotation; at += kInt4Group) {
      const float* x = block + (at - k);
      const InputScale scale(LargestBits(x, kInt4Group, _mm256_setzero_si256()));
      const int32_t sum = Encode(x, kInt4Group, scale, q.codes + at);
      q.groups[at / kInt4Group] = {scale.scale, scale.scale * static_cast<float>(sum)};
    }
  }
}

// Lanes of the last, partial vector; all ones for a full one.
[[gnu::always_inline]] inline __m256i TailMask(int64_t lanes) {
  const __m256i index = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(lanes < 8 ? lanes : 8)), index);
}

void Linear(const StoreLinear& s) {
  for (int r = 0; r < s.rows; ++r) {
    for (int64_t c = 0; c < s.columns; c += 8) {
      const __m256i mask = TailMask(s.columns - c);
      float* y = s.y + r * s.y_stride + c;
      __m256 v = _mm256_loadu_ps(s.acc + r * kTileColumns + c);
      if (s.bias != nullptr) v = _mm256_add_ps(v, _mm256_maskload_ps(s.bias + c, mask));
      if (s.accumulate) v = _mm256_add_ps(_mm256_maskload_ps(y, mask), v);
      _mm256_maskstore_ps(y, mask, v);
    }
  }
}

// To bf16 in the low halves of the lanes: nearest even, NaN quieted, as ToBf16.
[[gnu::always_inline]] inline __m256i RoundToBf16(__m256 x) {
  const __m256i u = _mm256_castps_si256(x);
  const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(u, 16), _mm256_set1_epi32(1));
  const __m256i rounded = _mm256_add_epi32(u, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
  const __m256i quiet = _mm256_or_si256(u, _mm256_set1_epi32(0x400000));
  const __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(x, x, _CMP_UNORD_Q));
  return _mm256_srli_epi32(_mm256_blendv_epi8(rounded, quiet, nan), 16);
}

void SwiGlu(const StoreSwiGlu& s) {
  const __m256 one = _mm256_set1_ps(1.0f);
  for (int r = 0; r < s.rows; ++r) {
    for (int64_t c = 0; c < s.columns; c += 8) {
      const int64_t lanes = s.columns - c < 8 ? s.columns - c : 8;
      const float* acc = s.acc + r * kTileColumns + c / 16 * 32 + c % 16;
      __m256 gate = _mm256_loadu_ps(acc), up = _mm256_loadu_ps(acc + 16);
      if (s.gate_bias != nullptr) {
        const __m256i mask = TailMask(lanes);
        gate = _mm256_add_ps(gate, _mm256_maskload_ps(s.gate_bias + c, mask));
        up = _mm256_add_ps(up, _mm256_maskload_ps(s.up_bias + c, mask));
      }
      const __m256 e = ExpAvx2(_mm256_sub_ps(_mm256_setzero_ps(), gate));
      const __m256 y = _mm256_mul_ps(_mm256_div_ps(gate, _mm256_add_ps(one, e)), up);
      alignas(32) uint32_t bits[8];
      _mm256_store_si256(reinterpret_cast<__m256i*>(bits), RoundToBf16(y));
      for (int64_t i = 0; i < lanes; ++i) {
        s.y[r * s.y_stride + c + i] = static_cast<uint16_t>(bits[i]);
      }
    }
  }
}

constexpr FormatKernels Format(void (*tile)(const GemmTile&)) {
  return {.max_rows = kMaxRows,
          .even_tiles = true,
          .prefetch_from_rows = kMaxRows + 1,
          .tile = tile};
}

void Finish() {}

}  // namespace

const GemmKernels kGemmAvx2 = {
    .formats = {Format(FloatTile<Bf16Lines>), Format(FloatTile<Fp8Lines>),
                Format(IntegerTile<Int8Halves>), Format(IntegerTile<Int4Halves>)},
    .scale = Scale,
    .store_linear = Linear,
    .store_swiglu = SwiGlu,
    .quantize_row = QuantizeInputRow,
    .quantize_groups = QuantizeInputGroups,
    .finish = Finish};

}  // namespace skim
