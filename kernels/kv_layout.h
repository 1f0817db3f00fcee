// How keys and values lie in a page. A page holds `page_tokens` consecutive slots of
// `unit_layers` consecutive layers, so every page of a model has one size whatever
// segment it serves.
//
// Inside a page, per layer and per KV head, in this order:
//   bf16        K  [page_tokens/16][head_dim/2][16][2]   16 keys side by side, pairs along
//                                                        head_dim
//               V  [page_tokens/2][head_dim][2]          pairs along the keys
//   int8, fp8   K  [page_tokens/16][head_dim/4][line]    codes, head_dim rounded up to 4
//               K scales [page_tokens]                   float
//               V  [page_tokens/4][head_dim/16][line]    codes, head_dim rounded up to 16
//               V scales [page_tokens]                   float
//               line: 16 keys x 4 dimensions of K, 16 dimensions x 4 keys of V, as
//               [4 of the 16][first two or last two of the 4][4][2]
// Everything is made of 64-byte lines. A line of bf16 is one operand of a bf16 dot-product unit
// (AVX-512 VDPBF16PS, AMX TDPBF16PS): the four bytes a lane reads are two neighbours along the
// summed axis. A line of codes becomes two such operands, and in the order above unpacking its
// bytes to words yields them: within 16 bytes, the low half belongs to the first.
//
// A code is a sign bit and seven bits of magnitude; the slot's value is code * scale:
//   int8  magnitude 0..127,             scale = max|x| / 127 of that token, head and K or V
//   fp8   magnitude as in e4m3, to 448, scale = max|x| / 448
// What is stored for a token depends on that token alone. A vector with a NaN or infinity is
// stored with the scale NaN, one whose maximum is below kSmallestKvMaximum as zeros. Every
// byte is a finite code, so what lies in unused slots times 0 is 0.
//
// In bf16 it need not be. There the writer of a sequence's last slot s, if s is even, also
// clears the V lane of slot s+1: readers round the number of slots up to a pair. Any other
// partner is itself in use, and may be written by another thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

#include "base/bf16.h"

namespace skim {

enum class KvFormat : uint8_t { kBf16, kInt8, kFp8 };
inline constexpr int kKvFormats = 3;

constexpr std::string_view KvFormatName(KvFormat format) {
  constexpr std::string_view kNames[kKvFormats] = {"bf16", "int8", "fp8"};
  return kNames[static_cast<int>(format)];
}

inline constexpr float kSmallestKvMaximum = 0x1p-100f;

struct KvLayout {
  int page_tokens = 32;  // multiple of 16, divides kAttentionBlock
  int unit_layers = 1;   // layers that share a page
  int kv_heads = 0;
  int head_dim = 0;  // even
  KvFormat format = KvFormat::kBf16;
  int64_t padding = 0;  // bytes behind a page's layers: another model's pages may be larger

  constexpr bool coded() const { return format != KvFormat::kBf16; }
  // Dimensions of a slot, counting padding.
  constexpr int key_width() const { return coded() ? (head_dim + 3) / 4 * 4 : head_dim; }
  constexpr int value_width() const { return coded() ? (head_dim + 15) / 16 * 16 : head_dim; }

  // K, V and one kind of scale of one head in a page.
  constexpr int64_t KeyBytes() const { return int64_t{page_tokens} * key_width() * element_bytes(); }
  constexpr int64_t ValueBytes() const { return int64_t{page_tokens} * value_width() * element_bytes(); }
  constexpr int64_t ScaleBytes() const {
    return coded() ? page_tokens * static_cast<int64_t>(sizeof(float)) : 0;
  }
  constexpr int64_t HeadBytes() const { return KeyBytes() + ValueBytes() + 2 * ScaleBytes(); }
  constexpr int64_t LayerBytes() const { return kv_heads * HeadBytes(); }
  constexpr int64_t PageBytes() const { return unit_layers * LayerBytes() + padding; }

  // Byte offsets from the start of a page.
  constexpr int64_t KeyBase(int layer_in_unit, int head) const {
    return layer_in_unit * LayerBytes() + head * HeadBytes();
  }
  constexpr int64_t ValueBase(int layer_in_unit, int head) const {
    return KeyBase(layer_in_unit, head) + KeyBytes() + ScaleBytes();
  }

  // Byte offsets of one number from KeyBase and ValueBase. Numbers 2i and 2i+1 of a key, and
  // number d of slots 2i and 2i+1, are neighbours.
  constexpr int64_t KeyElement(int slot, int d) const {
    const int64_t group = int64_t{slot / 16} * key_width() * 16 * element_bytes();
    const int lane = coded() ? slot % 16 / 4 * 16 + slot % 4 * 2 : slot % 16 * 4;
    return group + lane + KeyDimension(coded(), d);
  }
  constexpr int64_t ValueElement(int slot, int d) const {
    const int64_t row = int64_t{coded() ? slot / 4 : slot / 2} * value_width() * 4;
    const int depth = coded() ? slot % 4 / 2 * 8 + slot % 2 : slot % 2 * 2;
    return row + depth + ValueDimension(coded(), d);
  }
  // The way from number 0 of a slot to number d.
  static constexpr int64_t KeyDimension(bool coded, int d) {
    return coded ? d / 4 * 64 + d % 4 / 2 * 8 + d % 2 : d / 2 * 64 + d % 2 * 2;
  }
  static constexpr int64_t ValueDimension(bool coded, int d) {
    return coded ? d / 4 * 16 + d % 4 * 2 : d * 4;
  }
  constexpr int64_t KeyScale(int slot) const { return KeyBytes() + slot * int64_t{sizeof(float)}; }
  constexpr int64_t ValueScale(int slot) const { return ValueBytes() + slot * int64_t{sizeof(float)}; }

 private:
  constexpr int element_bytes() const { return coded() ? 1 : 2; }
};

// Softmax is accumulated over blocks of this many slots, aligned to multiples of it,
// for one row or for many: the order of additions never depends on the batch (G1).
inline constexpr int kAttentionBlock = 64;

}  // namespace skim
