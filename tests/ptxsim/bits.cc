// Logic, shifts and bit fields.
#include <algorithm>
#include <bit>
#include <type_traits>

#include "tests/ptxsim/modifiers.h"
#include "tests/ptxsim/values.h"

namespace ptxsim {
namespace {

enum Logic : uint8_t { kAnd, kOr, kXor, kNot };

void RunLogic(const Instruction& i, Thread& t) {
  const uint64_t a = t[i.operands[1].reg[0]];
  const uint64_t b = i.mode == kNot ? 0 : t[i.operands[2].reg[0]];
  uint64_t value = 0;
  switch (i.mode) {
    case kAnd:
      value = a & b;
      break;
    case kOr:
      value = a | b;
      break;
    case kXor:
      value = a ^ b;
      break;
    case kNot:
      value = i.type == Type::kPred ? a == 0 : ~a;
      break;
  }
  const int bytes = BytesOf(i.type);
  if (i.type != Type::kPred && bytes < 8) value &= (uint64_t{1} << 8 * bytes) - 1;
  t[i.operands[0].reg[0]] = value;
}

// Shifts by more than the width give 0, or the sign.
void RunShift(const Instruction& i, Thread& t) {
  ForInteger(i.type, [&](auto zero) {
    using T = decltype(zero);
    using U = std::make_unsigned_t<T>;
    constexpr uint32_t kWidth = 8 * sizeof(T);
    const T a = Get<T>(t, i.operands[1]);
    const uint32_t by = Get<uint32_t>(t, i.operands[2]);
    T value;
    if (i.mode == 0) {
      value = by >= kWidth ? T{0} : static_cast<T>(static_cast<U>(a) << by);
    } else {
      value = by >= kWidth ? static_cast<T>(a < 0 ? -1 : 0) : static_cast<T>(a >> by);
    }
    Put<T>(t, i.operands[0], value);
  });
}

// shf.{l,r}.{wrap,clamp}.b32 d, low, high, by
void RunFunnelShift(const Instruction& i, Thread& t) {
  const uint64_t both =
      uint64_t{Get<uint32_t>(t, i.operands[2])} << 32 | Get<uint32_t>(t, i.operands[1]);
  uint32_t by = Get<uint32_t>(t, i.operands[3]);
  by = i.mode2 == 0 ? by % 32 : std::min(by, 32u);
  const uint64_t value = i.mode == 0 ? (both << by) >> 32 : both >> by;
  Put<uint32_t>(t, i.operands[0], static_cast<uint32_t>(value));
}

void RunLop3(const Instruction& i, Thread& t) {
  const uint32_t a = Get<uint32_t>(t, i.operands[1]), b = Get<uint32_t>(t, i.operands[2]),
                 c = Get<uint32_t>(t, i.operands[3]), table = Get<uint32_t>(t, i.operands[4]);
  uint32_t value = 0;
  for (int k = 0; k < 8; ++k) {
    if ((table >> k & 1) == 0) continue;
    value |= (k & 4 ? a : ~a) & (k & 2 ? b : ~b) & (k & 1 ? c : ~c);
  }
  Put<uint32_t>(t, i.operands[0], value);
}

// prmt.b32 d, a, b, selector: four bytes out of eight; bit 3 of a nibble replicates the sign.
void RunPermute(const Instruction& i, Thread& t) {
  const uint64_t bytes =
      uint64_t{Get<uint32_t>(t, i.operands[2])} << 32 | Get<uint32_t>(t, i.operands[1]);
  const uint32_t selector = Get<uint32_t>(t, i.operands[3]);
  uint32_t value = 0;
  for (int k = 0; k < 4; ++k) {
    const uint32_t nibble = selector >> 4 * k & 15;
    uint32_t byte = static_cast<uint32_t>(bytes >> 8 * (nibble & 7)) & 255;
    if (nibble & 8) byte = byte & 128 ? 255 : 0;
    value |= byte << 8 * k;
  }
  Put<uint32_t>(t, i.operands[0], value);
}

void RunCount(const Instruction& i, Thread& t) {
  const bool wide = BytesOf(i.type) == 8;
  const uint64_t a = wide ? t[i.operands[1].reg[0]] : Get<uint32_t>(t, i.operands[1]);
  uint32_t value = 0;
  switch (i.mode) {
    case 0:
      value = std::popcount(a);
      break;
    case 1:
      value = wide ? std::countl_zero(a) : std::countl_zero(static_cast<uint32_t>(a));
      break;
    default: {  // brev
      uint64_t reversed = 0;
      for (int k = 0; k < (wide ? 64 : 32); ++k) reversed = reversed << 1 | (a >> k & 1);
      t[i.operands[0].reg[0]] = reversed;
      return;
    }
  }
  Put<uint32_t>(t, i.operands[0], value);
}

// bfind{.shiftamt}: the highest bit that differs from the sign, or how far it is from the top.
void RunFind(const Instruction& i, Thread& t) {
  ForInteger(i.type, [&](auto zero) {
    using T = decltype(zero);
    const T a = Get<T>(t, i.operands[1]);
    const auto bits = static_cast<std::make_unsigned_t<T>>(a < 0 ? ~a : a);
    const int from_top = std::countl_zero(bits), width = 8 * sizeof(T);
    uint32_t value = static_cast<uint32_t>(i.mode2 == 1 ? from_top : width - 1 - from_top);
    if (bits == 0) value = ~0u;
    Put<uint32_t>(t, i.operands[0], value);
  });
}

void RunExtract(const Instruction& i, Thread& t) {
  ForInteger(i.type, [&](auto zero) {
    using T = decltype(zero);
    constexpr int kWidth = 8 * sizeof(T);
    const uint64_t a = Bits(Get<T>(t, i.operands[1]));
    const int at = Get<uint32_t>(t, i.operands[2]) & 255;
    const int length = Get<uint32_t>(t, i.operands[3]) & 255;
    uint64_t value = at >= kWidth ? 0 : a >> at;
    const int kept = std::min({length, kWidth - at, 64});
    if (kept <= 0) value = 0;
    if (kept > 0 && kept < 64) value &= (uint64_t{1} << kept) - 1;
    if (std::is_signed_v<T> && length > 0) {
      const int sign = std::min(at + length - 1, kWidth - 1);
      if ((a >> sign & 1) != 0 && kept < 64) value |= ~uint64_t{0} << std::max(kept, 0);
    }
    Put<T>(t, i.operands[0], static_cast<T>(value));
  });
}

void RunInsert(const Instruction& i, Thread& t) {
  const uint64_t a = t[i.operands[1].reg[0]], b = t[i.operands[2].reg[0]];
  const int width = 8 * BytesOf(i.type), at = Get<uint32_t>(t, i.operands[3]) & 255;
  const int length = std::min<int>(Get<uint32_t>(t, i.operands[4]) & 255, width - at);
  uint64_t value = b;
  if (at < width && length > 0) {
    const uint64_t ones = length >= 64 ? ~uint64_t{0} : (uint64_t{1} << length) - 1;
    value = (b & ~(ones << at)) | (a & ones) << at;
  }
  t[i.operands[0].reg[0]] = width == 64 ? value : static_cast<uint32_t>(value);
}

}  // namespace

bool DecodeBits(Modifiers& m, Instruction& i) {
  static const std::vector<std::string> kLogic = {"and", "or", "xor", "not"};
  static const std::vector<std::string> kCounts = {"popc", "clz", "brev"};
  const std::string& base = m.base();
  if (base == "shf") {
    i.mode = static_cast<uint8_t>(m.TakeOneOf({"l", "r"}));
    i.mode2 = static_cast<uint8_t>(m.TakeOneOf({"wrap", "clamp"}));
    i.run = RunFunnelShift;
    return m.TakeType() == Type::kB32 && i.mode < 2 && i.mode2 < 2;
  }
  if (base == "bfind") i.mode2 = m.Take("shiftamt") ? 1 : 0;
  i.type = m.TakeType();
  if (base == "bfind") {
    i.run = RunFind;
    return BytesOf(i.type) >= 4 && IsInteger(i.type);
  }
  if (const auto logic = std::find(kLogic.begin(), kLogic.end(), base); logic != kLogic.end()) {
    i.mode = static_cast<uint8_t>(logic - kLogic.begin());
    i.run = RunLogic;
    return i.type != Type::kNone;
  }
  if (const auto count = std::find(kCounts.begin(), kCounts.end(), base); count != kCounts.end()) {
    i.mode = static_cast<uint8_t>(count - kCounts.begin());
    i.run = RunCount;
    return i.type == Type::kB32 || i.type == Type::kB64;
  }
  if (base == "shl" || base == "shr") {
    i.mode = base == "shl" ? 0 : 1;
    i.run = RunShift;
    return IsInteger(i.type);
  }
  if (base == "lop3") {
    i.run = RunLop3;
    return i.type == Type::kB32;
  }
  if (base == "prmt") {
    i.run = RunPermute;
    return i.type == Type::kB32;
  }
  if (base == "bfe") {
    i.run = RunExtract;
    return IsInteger(i.type);
  }
  if (base == "bfi") {
    i.run = RunInsert;
    return i.type == Type::kB32 || i.type == Type::kB64;
  }
  return false;
}

}  // namespace ptxsim
