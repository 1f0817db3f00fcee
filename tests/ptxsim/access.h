// From an address operand to checked bytes.
#pragma once

#include "tests/ptxsim/values.h"

namespace ptxsim {

// Address of a memory operand and the space it lies in, windows of the generic space resolved.
struct Place {
  Space space;
  uint64_t address;
};
Place PlaceOf(const Instruction& instruction, const Operand& operand, Thread& thread);

// Checked memory, aligned to its size. Valid until the next access.
const uint8_t* ReadAt(const Place& place, int bytes, Thread& thread);
uint8_t* WriteAt(const Place& place, int bytes, Thread& thread, bool atomic = false);

}  // namespace ptxsim
