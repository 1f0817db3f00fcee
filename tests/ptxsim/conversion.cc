// mov, cvt, cvta, setp, selp.
#include <algorithm>
#include <bit>
#include <limits>

#include "tests/ptxsim/memory_map.h"
#include "tests/ptxsim/modifiers.h"
#include "tests/ptxsim/small_floats.h"
#include "tests/ptxsim/values.h"

namespace ptxsim {
namespace {

enum Comparison : uint8_t {
  kEq,
  kNe,
  kLt,
  kLe,
  kGt,
  kGe,
  kLo,
  kLs,
  kHi,
  kHs,
  kEqu,
  kNeu,
  kLtu,
  kLeu,
  kGtu,
  kGeu,
  kNum,
  kNan
};

void RunMove(const Instruction& i, Thread& t) {
  const Operand& to = i.operands[0];
  const Operand& from = i.operands[1];
  if (to.count == from.count) {
    for (int k = 0; k < to.count; ++k) t[to.reg[k]] = t[from.reg[k]];
    return;
  }
  // mov.b64 d, {low, high} and back
  const int bits = 8 * BytesOf(i.type) / std::max(to.count, from.count);
  const uint64_t mask = (uint64_t{1} << bits) - 1;
  if (to.count == 1) {
    uint64_t value = 0;
    for (int k = 0; k < from.count; ++k) value |= (t[from.reg[k]] & mask) << bits * k;
    t[to.reg[0]] = value;
  } else {
    const uint64_t value = t[from.reg[0]];
    for (int k = 0; k < to.count; ++k) t[to.reg[k]] = value >> bits * k & mask;
  }
}

void RunCvta(const Instruction& i, Thread& t) {
  const uint64_t window = i.space == Space::kShared  ? kSharedWindow
                          : i.space == Space::kLocal ? kLocalWindow
                                                     : 0;
  const uint64_t a = t[i.operands[1].reg[0]];
  t[i.operands[0].reg[0]] = i.mode == 0 ? a + window : a - window;
}

double AsDouble(Type type, uint64_t bits) {
  double value = 0;
  if (type == Type::kBf16) return Bf16ToFloat(static_cast<uint16_t>(bits));
  if (type == Type::kF16) return HalfToFloat(static_cast<uint16_t>(bits));
  ForFloat(type, [&](auto zero) { value = Value<decltype(zero)>(bits); });
  return value;
}

double RoundedToInteger(double x, Rounding rounding) {
  switch (rounding) {
    case Rounding::kNearest:
      return std::nearbyint(x);
    case Rounding::kZero:
      return std::trunc(x);
    case Rounding::kDown:
      return std::floor(x);
    case Rounding::kUp:
      return std::ceil(x);
  }
  return x;
}

// Rounded, and clamped to what T holds; NaN gives 0.
template <typename T>
T ToInteger(double x, Rounding rounding) {
  if (std::isnan(x)) return 0;
  x = RoundedToInteger(x, rounding);
  if (x <= static_cast<double>(std::numeric_limits<T>::min())) {
    return std::numeric_limits<T>::min();
  }
  if (x >= static_cast<double>(std::numeric_limits<T>::max())) {
    return std::numeric_limits<T>::max();
  }
  return static_cast<T>(x);
}

bool IsSmallFloat(Type type) { return type == Type::kBf16 || type == Type::kF16; }

// cvt.<to>.<from>; mode 1: round to an integer in the same float type.
void RunConvert(const Instruction& i, Thread& t) {
  const Operand& to = i.operands[0];
  uint64_t from = t[i.operands[1].reg[0]];
  const bool from_float = IsFloat(i.type2) || IsSmallFloat(i.type2);
  if (from_float && (IsFloat(i.type) || IsSmallFloat(i.type))) {
    double x = AsDouble(i.type2, from);
    if (i.mode == 1) x = RoundedToInteger(x, i.rounding);
    if (i.type == Type::kBf16) {
      Put<uint16_t>(t, to, FloatToBf16(static_cast<float>(x), i.rounding));
    } else if (i.type == Type::kF16) {
      Put<uint16_t>(t, to, FloatToHalf(static_cast<float>(x)));
    } else if (i.type == Type::kF32) {
      const volatile double wide = x;
      Put<float>(t, to, Finish(i, Rounded(i.rounding, [&] { return static_cast<float>(wide); })));
    } else {
      Put<double>(t, to, Finish(i, x));
    }
    return;
  }
  if (from_float) {
    ForInteger(i.type, [&](auto zero) {
      using T = decltype(zero);
      Put<T>(t, to, ToInteger<T>(AsDouble(i.type2, from), i.rounding));
    });
    return;
  }
  // From an integer: sign or zero extended first.
  int64_t value = static_cast<int64_t>(from);
  switch (i.type2) {
    case Type::kS8:
      value = static_cast<int8_t>(from);
      break;
    case Type::kU8:
      value = static_cast<uint8_t>(from);
      break;
    case Type::kS16:
      value = static_cast<int16_t>(from);
      break;
    case Type::kU16:
    case Type::kB16:
      value = static_cast<uint16_t>(from);
      break;
    case Type::kS32:
      value = static_cast<int32_t>(from);
      break;
    case Type::kU32:
    case Type::kB32:
      value = static_cast<uint32_t>(from);
      break;
    default:
      break;
  }
  const volatile int64_t source = value;
  const bool is_unsigned = i.type2 == Type::kU64;
  if (i.type == Type::kF32) {
    Put<float>(t, to, Rounded(i.rounding, [&]() -> float {
                 return is_unsigned ? static_cast<float>(static_cast<uint64_t>(source))
                                    : static_cast<float>(source);
               }));
  } else if (i.type == Type::kF64) {
    Put<double>(t, to, Rounded(i.rounding, [&]() -> double {
                  return is_unsigned ? static_cast<double>(static_cast<uint64_t>(source))
                                     : static_cast<double>(source);
                }));
  } else if (i.type == Type::kS8) {  // a wider register holds the sign-extended byte
    t[to.reg[0]] = static_cast<uint32_t>(static_cast<int8_t>(value));
  } else if (i.type == Type::kU8) {
    t[to.reg[0]] = static_cast<uint8_t>(value);
  } else {
    ForInteger(i.type, [&](auto zero) {
      using T = decltype(zero);
      Put<T>(t, to, static_cast<T>(value));
    });
  }
}

// cvt.rn.bf16x2.f32 d, high, low
void RunConvertPair(const Instruction& i, Thread& t) {
  const auto one = [&](const Operand& operand) -> uint32_t {
    const float x = Get<float>(t, operand);
    return i.type == Type::kBf16x2 ? FloatToBf16(x, i.rounding) : FloatToHalf(x);
  };
  Put<uint32_t>(t, i.operands[0], one(i.operands[1]) << 16 | one(i.operands[2]));
}

template <typename T>
bool Compare(Comparison comparison, T a, T b) {
  const bool unordered = a != a || b != b;
  switch (comparison) {
    case kEq:
      return a == b;
    case kNe:
      return a != b && !unordered;
    case kLt:
    case kLo:
      return a < b;
    case kLe:
    case kLs:
      return a <= b;
    case kGt:
    case kHi:
      return a > b;
    case kGe:
    case kHs:
      return a >= b;
    case kEqu:
      return a == b || unordered;
    case kNeu:
      return a != b || unordered;
    case kLtu:
      return a < b || unordered;
    case kLeu:
      return a <= b || unordered;
    case kGtu:
      return a > b || unordered;
    case kGeu:
      return a >= b || unordered;
    case kNum:
      return !unordered;
    case kNan:
      return unordered;
  }
  return false;
}

// setp.<cmp>{.and|.or|.xor}.<type> p|q, a, b{, {!}c}
void RunCompare(const Instruction& i, Thread& t) {
  bool result = false;
  const auto compare = [&](auto zero) {
    using T = decltype(zero);
    result = Compare<T>(static_cast<Comparison>(i.mode), Get<T>(t, i.operands[1]),
                        Get<T>(t, i.operands[2]));
  };
  if (!ForInteger(i.type, compare)) ForFloat(i.type, compare);
  bool other = !result;
  if (i.operands.size() > 3) {
    const bool c = GetPredicate(t, i.operands[3]);
    const auto combine = [&](bool p) {
      return i.mode2 == 0 ? (p && c) : i.mode2 == 1 ? (p || c) : p != c;
    };
    other = combine(!result);
    result = combine(result);
  }
  t[i.operands[0].reg[0]] = result;
  if (i.operands[0].count == 2) t[i.operands[0].reg[1]] = other;
}

void RunSelect(const Instruction& i, Thread& t) {
  t[i.operands[0].reg[0]] = t[i.operands[GetPredicate(t, i.operands[3]) ? 1 : 2].reg[0]];
}

bool DecodeConvert(Modifiers& m, Instruction& i) {
  const int to_integer = m.TakeOneOf({"rni", "rzi", "rmi", "rpi"});
  i.rounding = m.TakeRounding();
  if (to_integer >= 0) i.rounding = static_cast<Rounding>(to_integer);
  i.flush = m.Take("ftz");
  i.saturate = m.Take("sat");
  i.type = m.TakeType();
  i.type2 = m.TakeType();
  if (i.type == Type::kBf16x2 || i.type == Type::kF16x2) {
    i.run = RunConvertPair;
    return i.type2 == Type::kF32 && !i.saturate;
  }
  i.mode = to_integer >= 0 && IsFloat(i.type) ? 1 : 0;
  i.run = RunConvert;
  const bool narrow = i.type == Type::kU8 || i.type == Type::kS8;
  const bool from_narrow = i.type2 == Type::kU8 || i.type2 == Type::kS8;
  return (IsInteger(i.type) || narrow || IsFloat(i.type) || IsSmallFloat(i.type)) &&
         (IsInteger(i.type2) || from_narrow || IsFloat(i.type2) || IsSmallFloat(i.type2)) &&
         !(i.saturate && !IsFloat(i.type));
}

}  // namespace

bool DecodeConversion(Modifiers& m, Instruction& i) {
  const std::string& base = m.base();
  if (base == "mov") {
    i.type = m.TakeType();
    i.run = RunMove;
    return i.type != Type::kNone;
  }
  if (base == "cvt") return DecodeConvert(m, i);
  if (base == "cvta") {
    i.mode = m.Take("to") ? 1 : 0;
    const int space = m.TakeOneOf({"global", "shared", "local"});
    if (space < 0) return false;
    constexpr Space kSpaces[] = {Space::kGlobal, Space::kShared, Space::kLocal};
    i.space = kSpaces[space];
    i.run = RunCvta;
    return m.TakeType() == Type::kU64;
  }
  if (base == "setp") {
    const int comparison = m.TakeOneOf({"eq", "ne", "lt", "le", "gt", "ge", "lo", "ls", "hi", "hs",
                                        "equ", "neu", "ltu", "leu", "gtu", "geu", "num", "nan"});
    i.mode = static_cast<uint8_t>(comparison);
    i.mode2 = static_cast<uint8_t>(m.TakeOneOf({"and", "or", "xor"}));
    m.Take("ftz");
    i.type = m.TakeType();
    i.run = RunCompare;
    return comparison >= 0 && (i.operands.size() == 4) == (i.mode2 < 3) &&
           (IsInteger(i.type) || IsFloat(i.type));
  }
  if (base == "selp") {
    i.type = m.TakeType();
    i.run = RunSelect;
    return i.type != Type::kNone;
  }
  return false;
}

}  // namespace ptxsim
