#include "tests/ptxsim/access.h"

#include "tests/ptxsim/fault.h"
#include "tests/ptxsim/memory_map.h"

namespace ptxsim {
namespace {

uint8_t* LocalAt(uint64_t address, int bytes, Thread& thread) {
  if (address % bytes != 0) Fault("misaligned local address");
  if (address < kLocalBegin || address - kLocalBegin + bytes > thread.local.size()) {
    Fault("out of bounds of local memory");
  }
  return thread.local.data() + (address - kLocalBegin);
}

}  // namespace

Place PlaceOf(const Instruction& instruction, const Operand& operand, Thread& thread) {
  const uint64_t address = thread[operand.reg[0]] + static_cast<uint64_t>(operand.offset);
  if (instruction.space != Space::kGeneric) return {instruction.space, address};
  if (address >= kLocalWindow) return {Space::kLocal, address - kLocalWindow};
  if (address >= kSharedWindow) return {Space::kShared, address - kSharedWindow};
  return {Space::kGlobal, address};
}

const uint8_t* ReadAt(const Place& place, int bytes, Thread& thread) {
  const Block& block = *thread.block;
  switch (place.space) {
    case Space::kShared:
      return block.shared->Read(thread.accessor(), place.address, bytes, bytes);
    case Space::kLocal:
      return LocalAt(place.address, bytes, thread);
    case Space::kParam:
      if (place.address + bytes > static_cast<uint64_t>(block.kernel->parameter_bytes)) {
        Fault("out of bounds of the parameters");
      }
      return block.parameters + place.address;
    default:
      return block.device->At(place.address, bytes, bytes, "load");
  }
}

uint8_t* WriteAt(const Place& place, int bytes, Thread& thread, bool atomic) {
  const Block& block = *thread.block;
  switch (place.space) {
    case Space::kShared:
      return block.shared->Write(thread.accessor(), place.address, bytes, bytes, atomic);
    case Space::kLocal:
      return LocalAt(place.address, bytes, thread);
    case Space::kParam:
      Fault("a kernel writes its parameters");
    default:
      return block.device->At(place.address, bytes, bytes, "store");
  }
}

}  // namespace ptxsim
