// Reads an opcode such as "ld.global.nc.v2.f32" part by part. What nobody takes is unknown.
#pragma once

#include <string>
#include <vector>

#include "tests/ptxsim/module.h"

namespace ptxsim {

class Modifiers {
 public:
  explicit Modifiers(const std::string& opcode);

  const std::string& base() const { return base_; }
  bool empty() const { return parts_.empty(); }
  // Takes ".name" where it comes next, wherever it comes, or one of several (its index; -1).
  bool TakeNext(const std::string& name);
  bool Take(const std::string& name);
  int TakeOneOf(const std::vector<std::string>& names);
  // Takes the first type; kNone if there is none.
  Type TakeType();
  Rounding TakeRounding();

 private:
  std::string base_;
  std::vector<std::string> parts_;
};

// One family of opcodes each. True if the base is theirs and every modifier is understood.
bool DecodeArithmetic(Modifiers& modifiers, Instruction& instruction);
bool DecodeBits(Modifiers& modifiers, Instruction& instruction);
bool DecodeConversion(Modifiers& modifiers, Instruction& instruction);
bool DecodeControl(Modifiers& modifiers, Instruction& instruction);
bool DecodeMemory(Modifiers& modifiers, Instruction& instruction);
bool DecodeAsync(Modifiers& modifiers, Instruction& instruction);
bool DecodeWarp(Modifiers& modifiers, Instruction& instruction);
bool DecodeMatrix(Modifiers& modifiers, Instruction& instruction);

}  // namespace ptxsim
