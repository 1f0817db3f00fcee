// How keys and values lie in a page. A page holds `page_tokens` consecutive slots of
// `unit_layers` consecutive layers, so every page of a model has one size whatever
// segment it serves.
//
// Inside a page, per layer and per KV head, in this order:
//   K  [page_tokens/16][head_dim/2][16][2]   bf16: 16 keys side by side, pairs along head_dim
//   V  [page_tokens/2][head_dim][2]          bf16: pairs along the keys
// Both are the operand layout of a bf16 dot-product unit (AVX-512 VDPBF16PS, AMX
// TDPBF16PS): the four bytes a lane reads are two neighbours along the summed axis.
//
// The writer of a sequence's last slot s, if s is even, also clears the V lane of slot s+1:
// readers round the number of slots up to a pair, and 0 x (what a former owner left) must
// be 0. Any other partner is itself in use, and may be written by another thread.
#pragma once

#include <cstddef>
#include <cstdint>

#include "base/bf16.h"

namespace skim {

struct KvLayout {
  int page_tokens = 32;  // multiple of 16, divides kAttentionBlock
  int unit_layers = 1;   // layers that share a page
  int kv_heads = 0;
  int head_dim = 0;  // even

  int64_t HeadElements() const { return int64_t{page_tokens} * head_dim; }  // K or V of one head
  int64_t LayerElements() const { return 2 * kv_heads * HeadElements(); }
  size_t PageBytes() const {
    return static_cast<size_t>(unit_layers * LayerElements()) * sizeof(Bf16);
  }

  // Element offsets from the start of a page.
  int64_t KeyBase(int layer_in_unit, int head) const {
    return layer_in_unit * LayerElements() + int64_t{2} * head * HeadElements();
  }
  int64_t ValueBase(int layer_in_unit, int head) const {
    return KeyBase(layer_in_unit, head) + HeadElements();
  }
  int64_t KeyElement(int slot, int d) const {  // from KeyBase
    return (int64_t{slot / 16} * (head_dim / 2) + d / 2) * 32 + (slot % 16) * 2 + d % 2;
  }
  int64_t ValueElement(int slot, int d) const {  // from ValueBase
    return (int64_t{slot / 2} * head_dim + d) * 2 + slot % 2;
  }
};

// Softmax is accumulated over blocks of this many slots, aligned to multiples of it,
// for one row or for many: the order of additions never depends on the batch (G1).
inline constexpr int kAttentionBlock = 64;

}  // namespace skim
