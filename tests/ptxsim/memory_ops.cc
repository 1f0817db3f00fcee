// ld, st, atom, red.
#include <algorithm>

#include "tests/ptxsim/access.h"
#include "tests/ptxsim/modifiers.h"

namespace ptxsim {
namespace {

enum Atomic : uint8_t { kAdd, kMin, kMax, kAnd, kOr, kXor, kExch, kCas };

// A loaded element as it lies in a register, which may be wider: signed ones are extended.
uint64_t Widened(Type type, uint64_t bits) {
  switch (type) {
    case Type::kS8:
      return static_cast<uint64_t>(static_cast<int8_t>(bits));
    case Type::kS16:
      return static_cast<uint64_t>(static_cast<int16_t>(bits));
    case Type::kS32:
      return static_cast<uint64_t>(static_cast<int32_t>(bits));
    default:
      return bits;
  }
}

void RunLoad(const Instruction& i, Thread& t) {
  const Operand& to = i.operands[0];
  const int bytes = BytesOf(i.type);
  const uint8_t* from = ReadAt(PlaceOf(i, i.operands[1], t), bytes * to.count, t);
  for (int k = 0; k < to.count; ++k) {
    uint64_t bits = 0;
    std::memcpy(&bits, from + k * bytes, bytes);
    t[to.reg[k]] = Widened(i.type, bits);
  }
}

void RunStore(const Instruction& i, Thread& t) {
  const Operand& from = i.operands[1];
  const int bytes = BytesOf(i.type);
  uint8_t* to = WriteAt(PlaceOf(i, i.operands[0], t), bytes * from.count, t);
  for (int k = 0; k < from.count; ++k) std::memcpy(to + k * bytes, &t[from.reg[k]], bytes);
}

template <typename T>
T Updated(Atomic operation, T old, T a, T b) {
  if constexpr (std::is_integral_v<T>) {
    switch (operation) {
      case kAnd:
        return old & a;
      case kOr:
        return old | a;
      case kXor:
        return old ^ a;
      default:
        break;
    }
  }
  switch (operation) {
    case kAdd:
      return static_cast<T>(old + a);
    case kMin:
      return std::min(old, a);
    case kMax:
      return std::max(old, a);
    case kExch:
      return a;
    case kCas:
      return old == a ? b : old;
    default:
      return old;
  }
}

// atom d, [a], b{, c} and red [a], b
void RunAtomic(const Instruction& i, Thread& t) {
  const bool returns = i.mode2 == 1;
  const Operand& place = i.operands[returns ? 1 : 0];
  const Operand& a = i.operands[returns ? 2 : 1];
  const Operand& b = i.operands.back();
  const auto update = [&](auto zero) {
    using T = decltype(zero);
    uint8_t* at = WriteAt(PlaceOf(i, place, t), sizeof(T), t, /*atomic=*/true);
    T old;
    std::memcpy(&old, at, sizeof(T));
    const T value = Updated<T>(static_cast<Atomic>(i.mode), old, Get<T>(t, a), Get<T>(t, b));
    std::memcpy(at, &value, sizeof(T));
    if (returns) Put<T>(t, i.operands[0], old);
  };
  if (!ForInteger(i.type, update)) ForFloat(i.type, update);
}

bool TakeSpace(Modifiers& m, Instruction& i) {
  constexpr Space kSpaces[] = {Space::kGlobal, Space::kShared, Space::kLocal, Space::kParam};
  const int space = m.TakeOneOf({"global", "shared", "local", "param"});
  i.space = space < 0 ? Space::kGeneric : kSpaces[space];
  return true;
}

// What only says how to cache or order, which changes nothing here.
void TakeHints(Modifiers& m) {
  m.TakeOneOf({"volatile", "relaxed", "acquire", "release", "weak"});
  m.TakeOneOf({"cta", "gpu", "sys"});
  m.Take("nc");
  m.TakeOneOf({"ca", "cg", "cs", "lu", "cv", "wb", "wt"});
  if (m.TakeOneOf({"L1::no_allocate", "L1::evict_first", "L1::evict_last"}) >= 0) return;
  m.TakeOneOf({"L2::64B", "L2::128B", "L2::256B"});
}

}  // namespace

bool DecodeMemory(Modifiers& m, Instruction& i) {
  const std::string& base = m.base();
  const bool load = base == "ld", store = base == "st";
  if (load || store) {
    TakeSpace(m, i);
    TakeHints(m);
    const int vector = m.TakeOneOf({"v2", "v4"});
    i.type = m.TakeType();
    i.run = load ? RunLoad : RunStore;
    const int wanted = vector < 0 ? 1 : 2 << vector;
    return i.type != Type::kNone && i.operands.size() == 2 &&
           i.operands[load ? 0 : 1].count == wanted && i.operands[load ? 1 : 0].memory;
  }
  if (base == "atom" || base == "red") {
    TakeSpace(m, i);
    TakeHints(m);
    const int operation = m.TakeOneOf({"add", "min", "max", "and", "or", "xor", "exch", "cas"});
    i.mode = static_cast<uint8_t>(operation);
    i.mode2 = base == "atom" ? 1 : 0;
    i.type = m.TakeType();
    i.run = RunAtomic;
    return operation >= 0 && (IsInteger(i.type) || IsFloat(i.type));
  }
  return false;
}

}  // namespace ptxsim
