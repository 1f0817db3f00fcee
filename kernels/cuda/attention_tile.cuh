// A tile of kAttentionBlock slots of K or V of one head in shared memory, in bf16 and in the order
// that pages of bf16 have (kv_layout.h): its 32-bit words are two dimensions of a key or two slots
// of a value, which is what the B operand of mma.m16n8k16 wants for q . k and for p . v. So no
// element is ever transposed; coded K and V become bf16 on the way, without their scales.
//
// Each thread copies pieces of 16 bytes with cp.async, and unpacks those that it has copied itself.
#pragma once

#include "kernels/cuda/device_util.cuh"
#include "kernels/cuda/kv_read.cuh"
#include "kernels/cuda/mma.cuh"

namespace skim::cuda {

// The two sign-and-magnitude codes in bytes 1 and 3 of `codes` as a pair of bf16, exactly.
template <KvFormat kFormat>
__device__ inline uint32_t CodePairToBf16(uint32_t codes) {
  if constexpr (kFormat == KvFormat::kFp8) return Fp8PairToBf16(codes);
  constexpr uint32_t kOne = 0x3f803f80, kMinus128 = 0xc300c300;
  const uint32_t above_128 = 0x43004300 | (codes & 0x7f007f00) >> 8;  // 128 + magnitude
  uint32_t pair;
  asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(pair) : "r"(above_128), "r"(kOne), "r"(kMinus128));
  return pair | (codes & 0x80008000);
}

// Where 16 slots of one head begin in their page; null past the last slot.
struct SlotGroup {
  const std::byte* head;  // of the page, where the head's K begins
  int offset;             // slots
};

__device__ inline SlotGroup GroupAt(const KvLayer& kv, const PageId* blocks, int32_t block_begin,
                                    int slot, int end, int kv_head) {
  if (slot >= end) return {nullptr, 0};
  const SlotPlace at = PlaceOf(kv, blocks, block_begin, slot);
  return {at.page + kv.layout.KeyBase(kv.layer_in_unit, kv_head), at.offset};
}

template <KvFormat kFormat, int kDim>
struct KvTile {
  static constexpr bool kCoded = kFormat != KvFormat::kBf16;
  static constexpr int kPieceWords = 4;
  // Words of a row of 16 keys, and of one of two slots of V: 4 more than there are, so that what a
  // half-warp reads lies on different banks.
  static constexpr int kKeyRow = kPlaceSlots, kValueRow = kDim + kPieceWords;
  static constexpr int kWords = kAttentionBlock / 2 * kValueRow;
  static constexpr int kRawBytes = kCoded ? kPlaceSlots * kDim : 0;  // of a group, K or V

  // Word of dimensions 2 row, + 1 of key 4 * column of a group. The two halves of every other pair
  // of rows change places: banks again.
  __device__ static int KeyWord(int group, int row, int column) {
    return (group * (kDim / 2) + row) * kKeyRow + (column ^ (row / 2 % 2 * 2)) * kPieceWords;
  }
  // Word of slots 2 row, + 1 of a group and dimension 4 * column.
  __device__ static int ValueWord(int group, int row, int column) {
    return (group * kPlaceSlots / 2 + row) * kValueRow + column * kPieceWords;
  }

  // 16 keys. Keys that are not there become zeros. `raw` is where codes wait to be unpacked.
  __device__ static void CopyKeys(const KvLayer& kv, const SlotGroup& from, int group,
                                  uint32_t* tile, std::byte* raw) {
    const KvLayout& layout = kv.layout;
    const std::byte* keys =
        from.head == nullptr ? kv.pool : from.head + layout.KeyElement(from.offset, 0);
    const int pieces = kCoded ? layout.key_width() : 2 * layout.head_dim;
    for (int i = threadIdx.x % kWarp; i < pieces; i += kWarp) {
      void* to = kCoded ? static_cast<void*>(raw + i * kPieceBytes)
                        : static_cast<void*>(tile + KeyWord(group, i / 4, i % 4));
      CopyAsync16(to, from.head == nullptr ? keys : keys + i * kPieceBytes, from.head != nullptr);
    }
  }

  // 16 values, of which the first `count` are there.
  __device__ static void CopyValues(const KvLayer& kv, const SlotGroup& from, int count, int group,
                                    uint32_t* tile, std::byte* raw) {
    const KvLayout& layout = kv.layout;
    const std::byte* values = from.head == nullptr ? kv.pool
                                                   : from.head + layout.ValueBase(0, 0) +
                                                         layout.ValueElement(from.offset, 0);
    const int columns = layout.value_width() / 4, odd = layout.value_width() % 4;
    for (int i = threadIdx.x % kWarp; i < kValuePieces; i += kWarp) {
      const int row = i / (kDim / 4), column = i % (kDim / 4);
      if (column * 4 >= layout.value_width()) continue;
      const bool valid = row * kRowSlots < count;
      if (kCoded || odd == 0) {
        void* to = kCoded ? static_cast<void*>(raw + i * kPieceBytes)
                          : static_cast<void*>(tile + ValueWord(group, row, column));
        CopyAsync16(to, values + (valid ? (row * columns + column) * kPieceBytes : 0), valid);
      } else {  // rows of pieces are no longer aligned
        const auto* words = reinterpret_cast<const uint32_t*>(values) + row * layout.value_width();
        for (int d = column * 4; d < min(column * 4 + 4, layout.value_width()); ++d) {
          tile[ValueWord(group, row, 0) + d] = valid ? words[d] : 0;
        }
      }
    }
  }

  __device__ static void UnpackKeys(const KvLayer& kv, int group, const std::byte* raw,
                                    uint32_t* tile) {
    for (int i = threadIdx.x % kWarp; i < kv.layout.key_width(); i += kWarp) {
      Unpack(raw + i * kPieceBytes, tile + KeyWord(group, i / 4 * 2, i % 4),
             tile + KeyWord(group, i / 4 * 2 + 1, i % 4));
    }
  }

  __device__ static void UnpackValues(const KvLayer& kv, int group, const std::byte* raw,
                                      uint32_t* tile) {
    for (int i = threadIdx.x % kWarp; i < kValuePieces; i += kWarp) {
      const int row = i / (kDim / 4), column = i % (kDim / 4);
      if (column * 4 >= kv.layout.value_width()) continue;
      Unpack(raw + i * kPieceBytes, tile + ValueWord(group, row * 2, column),
             tile + ValueWord(group, row * 2 + 1, column));
    }
  }

 private:
  static constexpr int kPieceBytes = 16;
  static constexpr int kRowSlots = kCoded ? 4 : 2;  // of V that lie side by side
  static constexpr int kValuePieces = kPlaceSlots / kRowSlots * (kDim / 4);

  // A piece of codes is two pieces of bf16: the first and the last two of four dimensions of K, or
  // of four slots of V.
  __device__ static void Unpack(const std::byte* raw, uint32_t* first, uint32_t* last) {
    const uint4 codes = *reinterpret_cast<const uint4*>(raw);
    *reinterpret_cast<uint4*>(first) = {Low(codes.x), High(codes.x), Low(codes.y), High(codes.y)};
    *reinterpret_cast<uint4*>(last) = {Low(codes.z), High(codes.z), Low(codes.w), High(codes.w)};
  }
  __device__ static uint32_t Low(uint32_t codes) {
    return CodePairToBf16<kFormat>(__byte_perm(codes, 0, 0x1404));
  }
  __device__ static uint32_t High(uint32_t codes) {
    return CodePairToBf16<kFormat>(__byte_perm(codes, 0, 0x3424));
  }
};

}  // namespace skim::cuda
