#include "tests/ptxsim/modifiers.h"

#include <algorithm>
#include <map>
#include <sstream>

#include "tests/ptxsim/fault.h"

namespace ptxsim {

Modifiers::Modifiers(const std::string& opcode) {
  std::stringstream stream(opcode);
  std::getline(stream, base_, '.');
  for (std::string part; std::getline(stream, part, '.');) parts_.push_back(part);
}

bool Modifiers::TakeNext(const std::string& name) {
  if (parts_.empty() || parts_[0] != name) return false;
  parts_.erase(parts_.begin());
  return true;
}

bool Modifiers::Take(const std::string& name) {
  const auto found = std::find(parts_.begin(), parts_.end(), name);
  if (found == parts_.end()) return false;
  parts_.erase(found);
  return true;
}

int Modifiers::TakeOneOf(const std::vector<std::string>& names) {
  for (size_t i = 0; i < names.size(); ++i) {
    if (Take(names[i])) return static_cast<int>(i);
  }
  return -1;
}

Type Modifiers::TakeType() {
  static const std::map<std::string, Type> kTypes = {
      {"pred", Type::kPred}, {"b8", Type::kB8},         {"b16", Type::kB16},
      {"b32", Type::kB32},   {"b64", Type::kB64},       {"u8", Type::kU8},
      {"u16", Type::kU16},   {"u32", Type::kU32},       {"u64", Type::kU64},
      {"s8", Type::kS8},     {"s16", Type::kS16},       {"s32", Type::kS32},
      {"s64", Type::kS64},   {"f16", Type::kF16},       {"f16x2", Type::kF16x2},
      {"bf16", Type::kBf16}, {"bf16x2", Type::kBf16x2}, {"f32", Type::kF32},
      {"f64", Type::kF64}};
  for (auto part = parts_.begin(); part != parts_.end(); ++part) {
    const auto found = kTypes.find(*part);
    if (found == kTypes.end()) continue;
    parts_.erase(part);
    return found->second;
  }
  return Type::kNone;
}

Rounding Modifiers::TakeRounding() {
  constexpr Rounding kRoundings[] = {Rounding::kNearest, Rounding::kZero, Rounding::kDown,
                                     Rounding::kUp};
  const int mode = TakeOneOf({"rn", "rz", "rm", "rp"});
  return mode < 0 ? Rounding::kNearest : kRoundings[mode];
}

void Decode(Kernel& kernel) {
  if (kernel.decoded) return;
  SetFaultPlace(&kernel.name, &kernel.current_line);
  for (Instruction& instruction : kernel.code) {
    kernel.current_line = instruction.line;
    Modifiers modifiers(instruction.opcode);
    const auto decodes = [&](auto family) {
      Modifiers copy = modifiers;
      return family(copy, instruction) && copy.empty();
    };
    if (!decodes(DecodeArithmetic) && !decodes(DecodeBits) && !decodes(DecodeConversion) &&
        !decodes(DecodeControl) && !decodes(DecodeMemory) && !decodes(DecodeAsync) &&
        !decodes(DecodeWarp) && !decodes(DecodeMatrix)) {
      Fault("unknown opcode " + instruction.opcode);
    }
  }
  SetFaultPlace(nullptr, nullptr);
  kernel.decoded = true;
}

}  // namespace ptxsim
