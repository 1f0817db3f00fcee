// Registers as values of a type.
#pragma once

#include <cfenv>
#include <cmath>
#include <cstring>

#include "tests/ptxsim/thread.h"

namespace ptxsim {

template <typename T>
T Value(uint64_t bits) {
  T value;
  std::memcpy(&value, &bits, sizeof(T));
  return value;
}

template <typename T>
uint64_t Bits(T value) {
  uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof(T));
  return bits;
}

template <typename T>
T Get(Thread& thread, const Operand& operand) {
  return Value<T>(thread[operand.reg[0]]);
}

template <typename T>
void Put(Thread& thread, const Operand& operand, T value) {
  thread[operand.reg[0]] = Bits(value);
}

inline bool GetPredicate(Thread& thread, const Operand& operand) {
  return (thread[operand.reg[0]] != 0) != operand.negated;
}

// Calls f with a value of the type, for its C++ type: f(uint32_t{}).
template <typename F>
bool ForInteger(Type type, F f) {
  switch (type) {
    case Type::kS16:
      f(int16_t{});
      return true;
    case Type::kS32:
      f(int32_t{});
      return true;
    case Type::kS64:
      f(int64_t{});
      return true;
    case Type::kB16:
    case Type::kU16:
      f(uint16_t{});
      return true;
    case Type::kB32:
    case Type::kU32:
      f(uint32_t{});
      return true;
    case Type::kB64:
    case Type::kU64:
      f(uint64_t{});
      return true;
    default:
      return false;
  }
}

template <typename F>
bool ForFloat(Type type, F f) {
  switch (type) {
    case Type::kF32:
      f(float{});
      return true;
    case Type::kF64:
      f(double{});
      return true;
    default:
      return false;
  }
}

inline bool IsInteger(Type type) {
  return ForInteger(type, [](auto) {});
}
inline bool IsFloat(Type type) {
  return ForFloat(type, [](auto) {});
}

// Runs f under a rounding mode.
template <typename F>
auto Rounded(Rounding rounding, F f) {
  if (rounding == Rounding::kNearest) return f();
  constexpr int kModes[] = {FE_TONEAREST, FE_TOWARDZERO, FE_DOWNWARD, FE_UPWARD};
  std::fesetround(kModes[static_cast<int>(rounding)]);
  const auto value = f();
  std::fesetround(FE_TONEAREST);
  return value;
}

// .sat clamps to [0, 1], NaN to 0; .ftz makes denormals zero.
template <typename T>
T Finish(const Instruction& instruction, T value) {
  if (instruction.flush && std::fpclassify(value) == FP_SUBNORMAL) {
    value = std::copysign(T{0}, value);
  }
  if (instruction.saturate) value = value > 0 ? (value < 1 ? value : T{1}) : T{0};
  return value;
}

}  // namespace ptxsim
