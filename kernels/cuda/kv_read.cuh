// Keys and values as they lie in pages (kv_layout.h), read by kernels: a thread looks at one key,
// or at one dimension of the values.
#pragma once

#include "kernels/cuda/device_util.cuh"
#include "kernels/cuda/launch.h"
#include "kernels/kv_layout.h"

namespace skim::cuda {

// A block of slots is kPlaces groups of 16, each of which lies in one page.
inline constexpr int kPlaceSlots = 16;
inline constexpr int kPlaces = kAttentionBlock / kPlaceSlots;

// Where slot `slot` of a sequence lies.
struct SlotPlace {
  const std::byte* page;
  int offset;  // in the page
};

__device__ inline SlotPlace PlaceOf(const KvLayer& kv, const PageId* blocks, int32_t block_begin,
                                    int slot) {
  const PageId page = blocks[block_begin + slot / kv.layout.page_tokens];
  return {kv.pool + page * kv.layout.PageBytes(), slot % kv.layout.page_tokens};
}

// The number behind a code, before its scale.
template <KvFormat kFormat>
__device__ inline float CodeValue(uint32_t code) {
  const uint32_t magnitude = code & 0x7f;
  // e4m3 is a float whose exponent is smaller by 120; the product is exact for its subnormal
  // numbers, too.
  const float value = kFormat == KvFormat::kInt8 ? static_cast<float>(magnitude)
                                                 : __uint_as_float(magnitude << 20) * 0x1p120f;
  return __uint_as_float(__float_as_uint(value) | (code & 0x80) << 24);
}

// Two neighbouring numbers: dimensions of a key, or slots of a value.
struct Pair {
  float first, second;
};

template <KvFormat kFormat>
__device__ inline Pair PairAt(const std::byte* at) {
  if constexpr (kFormat == KvFormat::kBf16) {
    const uint32_t pair = *reinterpret_cast<const uint32_t*>(at);
    return {LowBf16(pair), HighBf16(pair)};
  } else {
    const uint32_t pair = *reinterpret_cast<const uint16_t*>(at);
    return {CodeValue<kFormat>(pair & 0xff), CodeValue<kFormat>(pair >> 8)};
  }
}

// q . k without the key's scale. `key` is where the slot's first number lies.
template <KvFormat kFormat>
__device__ inline float DotKey(const float* q, const std::byte* key, int head_dim) {
  constexpr bool kCoded = kFormat != KvFormat::kBf16;
  float dot = 0;
  for (int d = 0; d < head_dim; d += 2) {
    const Pair pair = PairAt<kFormat>(key + KvLayout::KeyDimension(kCoded, d));
    dot = fmaf(q[d], pair.first, dot);
    dot = fmaf(q[d + 1], pair.second, dot);
  }
  return dot;
}

// What the key's codes are multiplied with.
template <KvFormat kFormat>
__device__ inline float KeyScaleAt(const KvLayer& kv, int kv_head, const SlotPlace& place) {
  if constexpr (kFormat == KvFormat::kBf16) return 1;
  return *reinterpret_cast<const float*>(place.page + kv.layout.KeyBase(kv.layer_in_unit, kv_head) +
                                         kv.layout.KeyScale(place.offset));
}

// Calls f.operator()<format>() for the kernel of a format.
template <typename F>
void ForKvFormat(KvFormat format, const F& f) {
  switch (format) {
    case KvFormat::kBf16:
      return f.template operator()<KvFormat::kBf16>();
    case KvFormat::kInt8:
      return f.template operator()<KvFormat::kInt8>();
    case KvFormat::kFp8:
      return f.template operator()<KvFormat::kFp8>();
  }
}

}  // namespace skim::cuda
