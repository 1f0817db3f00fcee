// ldmatrix and mma.sync. Fragment layouts: PTX ISA, "Matrix fragments for mma.m16n8k16 with
// floating point type" and "Warp-level matrix load instruction: ldmatrix".
#include <cmath>

#include "tests/ptxsim/access.h"
#include "tests/ptxsim/modifiers.h"
#include "tests/ptxsim/small_floats.h"

namespace ptxsim {
namespace {

// ldmatrix.sync.aligned.m8n8.x{1,2,4}{.trans}.shared.b16 {d..}, [row]. Lanes 8j .. 8j+7 name
// the eight rows of matrix j; lane l gets elements 2(l%4), +1 of row l/4 (or of that column).
void RunLoadMatrix(const Instruction& i, Warp& warp, uint32_t) {
  const Operand& to = i.operands[0];
  const bool transposed = i.mode2 == 1;
  for (int j = 0; j < to.count; ++j) {
    uint16_t matrix[8][8];
    for (int row = 0; row < 8; ++row) {
      Thread& t = warp.lane(8 * j + row);
      std::memcpy(matrix[row], ReadAt(PlaceOf(i, i.operands[1], t), 16, t), 16);
    }
    for (int lane = 0; lane < 32; ++lane) {
      const int r = lane / 4, c = lane % 4 * 2;
      const uint32_t low = transposed ? matrix[c][r] : matrix[r][c];
      const uint32_t high = transposed ? matrix[c + 1][r] : matrix[r][c + 1];
      warp.lane(lane)[to.reg[j]] = high << 16 | low;
    }
  }
}

float Element(const Instruction& i, Warp& warp, int lane, const Operand& operand, int index) {
  const uint64_t pair = warp.lane(lane)[operand.reg[index / 2]];
  const auto bits = static_cast<uint16_t>(pair >> 16 * (index % 2));
  return i.type == Type::kBf16 ? Bf16ToFloat(bits) : HalfToFloat(bits);
}

// mma.sync.aligned.m16n8k16.row.col.f32.{bf16,f16}.{bf16,f16}.f32 d, a, b, c: d = a b + c.
// Hardware sums in an order of its own; here k ascends, in double.
void RunMultiply(const Instruction& i, Warp& warp, uint32_t) {
  float a[16][16], b[16][8];
  for (int lane = 0; lane < 32; ++lane) {
    const int group = lane / 4, pair = lane % 4 * 2;
    for (int e = 0; e < 8; ++e) {
      a[group + (e / 2 % 2) * 8][pair + e % 2 + (e / 4) * 8] =
          Element(i, warp, lane, i.operands[1], e);
    }
    for (int e = 0; e < 4; ++e) {
      b[pair + e % 2 + (e / 2) * 8][group] = Element(i, warp, lane, i.operands[2], e);
    }
  }
  for (int lane = 0; lane < 32; ++lane) {
    const int group = lane / 4, pair = lane % 4 * 2;
    for (int e = 0; e < 4; ++e) {
      const int row = group + (e / 2) * 8, column = pair + e % 2;
      double sum = 0;
      for (int k = 0; k < 16; ++k) sum += double{a[row][k]} * double{b[k][column]};
      const float c = Value<float>(warp.lane(lane)[i.operands[3].reg[e]]);
      warp.lane(lane)[i.operands[0].reg[e]] = Bits(static_cast<float>(c + sum));
    }
  }
}

// mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32: exact, and wraps like the hardware. "Matrix
// fragments for mma.m16n8k32 with integer type".
void RunIntegerMultiply(const Instruction& i, Warp& warp, uint32_t) {
  int8_t a[16][32], b[32][8];
  for (int lane = 0; lane < 32; ++lane) {
    const int group = lane / 4, four = lane % 4 * 4;
    for (int e = 0; e < 4; ++e) {
      const uint64_t bytes = warp.lane(lane)[i.operands[1].reg[e]];
      for (int n = 0; n < 4; ++n) {
        a[group + e % 2 * 8][four + n + e / 2 * 16] = static_cast<int8_t>(bytes >> 8 * n);
      }
    }
    for (int e = 0; e < 2; ++e) {
      const uint64_t bytes = warp.lane(lane)[i.operands[2].reg[e]];
      for (int n = 0; n < 4; ++n) b[four + n + e * 16][group] = static_cast<int8_t>(bytes >> 8 * n);
    }
  }
  for (int lane = 0; lane < 32; ++lane) {
    const int group = lane / 4, pair = lane % 4 * 2;
    for (int e = 0; e < 4; ++e) {
      int64_t sum = Value<int32_t>(warp.lane(lane)[i.operands[3].reg[e]]);
      for (int k = 0; k < 32; ++k) sum += a[group + e / 2 * 8][k] * b[k][pair + e % 2];
      warp.lane(lane)[i.operands[0].reg[e]] = static_cast<uint32_t>(sum);
    }
  }
}

}  // namespace

bool DecodeMatrix(Modifiers& m, Instruction& i) {
  if (m.base() == "ldmatrix") {
    const bool form = m.TakeNext("sync") && m.TakeNext("aligned") && m.TakeNext("m8n8");
    const int count = m.TakeOneOf({"x1", "x2", "x4"});
    i.mode2 = m.Take("trans") ? 1 : 0;
    i.space = Space::kShared;
    i.type = Type::kB16;
    i.run_warp = RunLoadMatrix;
    return form && m.Take("shared") && m.TakeType() == Type::kB16 && count >= 0 &&
           i.operands.size() == 2 && i.operands[0].count == 1 << count;
  }
  if (m.base() == "mma") {
    if (!m.TakeNext("sync") || !m.TakeNext("aligned")) return false;
    const int shape = m.TakeOneOf({"m16n8k16", "m16n8k32"});
    const bool form = m.TakeNext("row") && m.TakeNext("col") && i.operands.size() == 4 &&
                      i.operands[0].count == 4 && i.operands[1].count == 4 &&
                      i.operands[2].count == 2 && i.operands[3].count == 4;
    if (shape == 1) {
      i.run_warp = RunIntegerMultiply;
      return form && m.TakeType() == Type::kS32 && m.TakeNext("s8") && m.TakeNext("s8") &&
             m.TakeType() == Type::kS32;
    }
    if (shape != 0 || m.TakeType() != Type::kF32) return false;
    i.type = m.TakeType();
    i.run_warp = RunMultiply;
    return form && (i.type == Type::kBf16 || i.type == Type::kF16) && m.TakeType() == i.type &&
           m.TakeType() == Type::kF32;
  }
  return false;
}

}  // namespace ptxsim
