// add, sub, mul, mad, fma, div, rem, neg, abs, min, max and the approximate functions.
#include <algorithm>
#include <limits>
#include <type_traits>

#include "tests/ptxsim/modifiers.h"
#include "tests/ptxsim/small_floats.h"
#include "tests/ptxsim/values.h"

namespace ptxsim {
namespace {

enum Operation : uint8_t { kAdd, kSub, kMul, kDiv, kRem, kMin, kMax, kNeg, kAbs };
enum Half : uint8_t { kLow, kHigh, kWide };
enum Function : uint8_t { kEx2, kLg2, kRcp, kSqrt, kRsqrt, kSin, kCos, kTanh };

template <typename T>
T IntegerOp(Operation operation, T a, T b) {
  using U = std::make_unsigned_t<T>;
  switch (operation) {
    case kAdd:
      return static_cast<T>(static_cast<U>(a) + static_cast<U>(b));
    case kSub:
      return static_cast<T>(static_cast<U>(a) - static_cast<U>(b));
    case kDiv:
      return b == 0 ? static_cast<T>(~U{0}) : static_cast<T>(a / b);
    case kRem:
      return b == 0 ? a : static_cast<T>(a % b);
    case kMin:
      return std::min(a, b);
    case kMax:
      return std::max(a, b);
    case kNeg:
      return static_cast<T>(U{0} - static_cast<U>(a));
    case kAbs:
      return a < 0 ? static_cast<T>(U{0} - static_cast<U>(a)) : a;
    case kMul:
      break;
  }
  return 0;
}

template <typename T>
T FloatOp(Operation operation, T a, T b) {
  switch (operation) {
    case kAdd:
      return a + b;
    case kSub:
      return a - b;
    case kMul:
      return a * b;
    case kDiv:
      return a / b;
    case kMin:
      return std::fmin(a, b);
    case kMax:
      return std::fmax(a, b);
    case kNeg:
      return -a;
    case kAbs:
      return std::fabs(a);
    case kRem:
      break;
  }
  return 0;
}

const Operand& Second(const Instruction& i) { return i.operands[i.operands.size() > 2 ? 2 : 1]; }

void RunInteger(const Instruction& i, Thread& t) {
  ForInteger(i.type, [&](auto zero) {
    using T = decltype(zero);
    Put<T>(t, i.operands[0],
           IntegerOp<T>(static_cast<Operation>(i.mode), Get<T>(t, i.operands[1]),
                        Get<T>(t, Second(i))));
  });
}

void RunFloat(const Instruction& i, Thread& t) {
  ForFloat(i.type, [&](auto zero) {
    using T = decltype(zero);
    const volatile T a = Get<T>(t, i.operands[1]), b = Get<T>(t, Second(i));
    const T value = Rounded(i.rounding, [&]() -> T {
      const volatile T result = FloatOp<T>(static_cast<Operation>(i.mode), a, b);
      return result;
    });
    Put<T>(t, i.operands[0], Finish(i, value));
  });
}

// d = a * b (+ c), the low, high or whole product.
void RunIntegerProduct(const Instruction& i, Thread& t) {
  ForInteger(i.type, [&](auto zero) {
    using T = decltype(zero);
    using Whole = std::conditional_t<std::is_signed_v<T>, __int128, unsigned __int128>;
    const Whole product = static_cast<Whole>(Get<T>(t, i.operands[1])) * Get<T>(t, i.operands[2]);
    const bool add = i.operands.size() > 3;
    if (i.mode2 == kWide) {
      const uint64_t c = add ? t[i.operands[3].reg[0]] : 0;
      const uint64_t sum = static_cast<uint64_t>(product) + c;
      t[i.operands[0].reg[0]] = sizeof(T) == 2 ? static_cast<uint32_t>(sum) : sum;
      return;
    }
    const Whole part = i.mode2 == kHigh ? product >> (8 * sizeof(T)) : product;
    const T c = add ? Get<T>(t, i.operands[3]) : T{0};
    Put<T>(t, i.operands[0], IntegerOp<T>(kAdd, static_cast<T>(part), c));
  });
}

void RunFma(const Instruction& i, Thread& t) {
  ForFloat(i.type, [&](auto zero) {
    using T = decltype(zero);
    const volatile T a = Get<T>(t, i.operands[1]), b = Get<T>(t, i.operands[2]),
                     c = Get<T>(t, i.operands[3]);
    const T value = Rounded(i.rounding, [&]() -> T {
      const volatile T result = std::fma(T{a}, T{b}, T{c});
      return result;
    });
    Put<T>(t, i.operands[0], Finish(i, value));
  });
}

// fma.rn.bf16x2: two at once, each rounded once. A double holds the product exactly, and the sum
// unless the exponents are 36 apart.
void RunPackedFma(const Instruction& i, Thread& t) {
  uint32_t result = 0;
  for (int half = 0; half < 2; ++half) {
    const auto number = [&](int operand) {
      const auto pair = Get<uint32_t>(t, i.operands[operand]);
      return double{Bf16ToFloat(static_cast<uint16_t>(pair >> 16 * half))};
    };
    const double exact = number(1) * number(2) + number(3);
    result |= uint32_t{DoubleToBf16(exact)} << 16 * half;
  }
  Put<uint32_t>(t, i.operands[0], result);
}

// The device's approximations are good to a few units in the last place; these are exact.
void RunFunction(const Instruction& i, Thread& t) {
  ForFloat(i.type, [&](auto zero) {
    using T = decltype(zero);
    T x = Get<T>(t, i.operands[1]), y = 0;
    if (i.flush && std::fpclassify(x) == FP_SUBNORMAL) x = std::copysign(T{0}, x);
    switch (i.mode) {
      case kEx2:
        y = std::exp2(x);
        break;
      case kLg2:
        y = std::log2(x);
        break;
      case kRcp:
        y = T{1} / x;
        break;
      case kSqrt:
        y = std::sqrt(x);
        break;
      case kRsqrt:
        y = T{1} / std::sqrt(x);
        break;
      case kSin:
        y = std::sin(x);
        break;
      case kCos:
        y = std::cos(x);
        break;
      case kTanh:
        y = std::tanh(x);
        break;
    }
    Put<T>(t, i.operands[0], Finish(i, y));
  });
}

}  // namespace

bool DecodeArithmetic(Modifiers& m, Instruction& i) {
  static const std::vector<std::string> kOperations = {"add", "sub", "mul", "div", "rem",
                                                       "min", "max", "neg", "abs"};
  static const std::vector<std::string> kFunctions = {"ex2",   "lg2", "rcp", "sqrt",
                                                      "rsqrt", "sin", "cos", "tanh"};
  const auto index = [&](const std::vector<std::string>& names) {
    return std::find(names.begin(), names.end(), m.base()) - names.begin();
  };
  const size_t operation = index(kOperations), function = index(kFunctions);
  const bool fma = m.base() == "fma", mad = m.base() == "mad";
  if (operation == kOperations.size() && function == kFunctions.size() && !fma && !mad) {
    return false;
  }
  i.rounding = m.TakeRounding();
  i.flush = m.Take("ftz");
  i.saturate = m.Take("sat");
  m.Take("approx");
  m.Take("full");
  const int half = m.TakeOneOf({"lo", "hi", "wide"});
  i.type = m.TakeType();
  if (function < kFunctions.size()) {
    i.mode = static_cast<uint8_t>(function);
    i.run = RunFunction;
    return IsFloat(i.type);
  }
  if (fma && i.type == Type::kBf16x2) {
    i.run = RunPackedFma;
    return !i.flush && !i.saturate && half < 0 && i.operands.size() == 4;
  }
  if (fma || (mad && IsFloat(i.type))) {
    i.run = RunFma;
    return IsFloat(i.type) && i.operands.size() == 4;
  }
  i.mode = static_cast<uint8_t>(mad ? size_t{kMul} : operation);
  if (IsFloat(i.type)) {
    i.run = RunFloat;
    return i.mode != kRem && half < 0;
  }
  if (!IsInteger(i.type) || i.saturate) return false;
  i.mode2 = static_cast<uint8_t>(half);
  i.run = i.mode == kMul ? RunIntegerProduct : RunInteger;
  return (i.mode == kMul) == (half >= 0) && i.operands.size() >= (i.mode >= kNeg ? 2u : 3u);
}

}  // namespace ptxsim
