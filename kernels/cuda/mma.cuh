// The tensor-core and asynchronous-copy instructions, sm_80 and later. PTX ISA: mma.m16n8k16,
// ldmatrix, cp.async, fma.bf16x2.
#pragma once

#include <cstdint>

namespace skim::cuda {

__device__ inline uint32_t SharedAddress(const void* pointer) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(pointer));
}

// 16 bytes to shared memory, zeros where `valid` is false. Both sides 16-byte aligned.
__device__ inline void CopyAsync16(void* shared, const void* global, bool valid) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(SharedAddress(shared)),
               "l"(global), "r"(valid ? 16 : 0)
               : "memory");
}

__device__ inline void CommitAsync() { asm volatile("cp.async.commit_group;" ::: "memory"); }

// Waits until at most kPending of this thread's groups are on their way.
template <int kPending>
__device__ inline void WaitAsync() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
}

// The A operand of m16n8k16 or, of bytes, m16n8k32: four 8 x 16-byte matrices. Lane l gives the
// address of row l % 16 at byte 16 * (l / 16) of a 16 x 32-byte tile.
__device__ inline void LoadMatrixA(uint32_t (&a)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(a[0]), "=r"(a[1]), "=r"(a[2]), "=r"(a[3])
               : "r"(SharedAddress(row))
               : "memory");
}

// c += a b; a is 16 x 16, b 16 x 8 (two registers), c 16 x 8 float.
__device__ inline void MultiplyBf16(float (&c)[4], const uint32_t (&a)[4], uint32_t b0,
                                    uint32_t b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, "
      "{%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// The same for 16 x 32 and 32 x 8 signed bytes; c is exact.
__device__ inline void MultiplyInt8(int32_t (&c)[4], const uint32_t (&a)[4], uint32_t b0,
                                    uint32_t b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0, %1, %2, %3}, "
      "{%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// The two e4m3 codes in bytes 1 and 3 of `codes` as a pair of bf16, exactly: three bits of
// fraction fit, and the exponent grows by 120.
__device__ inline uint32_t Fp8PairToBf16(uint32_t codes) {
  constexpr uint32_t kExponent = 0x7b807b80;  // 2^120, twice
  constexpr uint32_t kNegativeZero = 0x80008000;
  const uint32_t small = (codes & 0x80008000) | (codes & 0x7f007f00) >> 4;
  uint32_t pair;
  asm("fma.rn.bf16x2 %0, %1, %2, %3;"
      : "=r"(pair)
      : "r"(small), "r"(kExponent), "r"(kNegativeZero));
  return pair;
}

}  // namespace skim::cuda
