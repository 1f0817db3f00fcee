// Branches, the end of a thread, barriers and fences.
#include "tests/ptxsim/fault.h"
#include "tests/ptxsim/modifiers.h"
#include "tests/ptxsim/values.h"

namespace ptxsim {
namespace {

void RunBranch(const Instruction& i, Thread& t) { t.pc = i.target; }
void RunExit(const Instruction&, Thread& t) { t.state = Thread::kExited; }
void RunTrap(const Instruction&, Thread& t) {
  Fault("thread " + std::to_string(t.index) + " traps");
}
// Threads run one at a time here, so all memory is always in order.
void RunFence(const Instruction&, Thread&) {}

}  // namespace

bool DecodeControl(Modifiers& m, Instruction& i) {
  const std::string& base = m.base();
  if (base == "bra") {
    m.Take("uni");
    i.run = RunBranch;
    return i.target >= 0;
  }
  if (base == "ret" || base == "exit") {
    m.Take("uni");
    i.run = RunExit;  // no calls: a kernel's return ends the thread
    return true;
  }
  if (base == "trap") {
    i.run = RunTrap;
    return true;
  }
  if (base == "membar") {
    i.run = RunFence;
    return m.TakeOneOf({"cta", "gl", "sys"}) >= 0;
  }
  if (base == "fence") {
    i.run = RunFence;
    m.TakeOneOf({"sc", "acq_rel"});
    return m.TakeOneOf({"cta", "gpu", "sys"}) >= 0;
  }
  if (base == "bar" || base == "barrier") {
    if (m.TakeNext("warp")) return false;  // a warp instruction
    m.Take("cta");
    m.Take("aligned");
    i.barrier = true;  // of all threads; barriers of some are not modelled
    if (m.Take("sync")) return i.operands.size() == 1;
    const bool reduces = m.Take("red");
    const int reduction = m.TakeOneOf({"popc", "and", "or"});
    i.mode = static_cast<uint8_t>(reduction);
    const Type type = m.TakeType();
    return reduces && reduction >= 0 && i.operands.size() == 3 &&
           type == (i.mode == kBarrierCount ? Type::kU32 : Type::kPred);
  }
  return false;
}

}  // namespace ptxsim
