// cp.async: the bytes are taken when it is issued and land when its thread waits.
#include "tests/ptxsim/access.h"
#include "tests/ptxsim/fault.h"
#include "tests/ptxsim/modifiers.h"

namespace ptxsim {
namespace {

void Land(Thread& t, const std::vector<AsyncCopy>& group) {
  for (const AsyncCopy& copy : group) {
    t.block->shared->EndAsync(t.accessor(), copy.to, copy.data.data(), copy.bytes);
  }
}

// cp.async.{ca,cg}.shared.global [to], [from], bytes{, bytes read}
void RunCopy(const Instruction& i, Thread& t) {
  AsyncCopy copy;
  copy.to = t[i.operands[0].reg[0]] + static_cast<uint64_t>(i.operands[0].offset);
  copy.bytes = static_cast<int>(t[i.operands[2].reg[0]]);
  const int read = i.operands.size() > 3 ? Get<int32_t>(t, i.operands[3]) : copy.bytes;
  if (copy.bytes != 16 && (i.mode == 1 || (copy.bytes != 4 && copy.bytes != 8))) {
    Fault("cp.async of " + std::to_string(copy.bytes) + " bytes");
  }
  if (read < 0 || read > copy.bytes) Fault("cp.async reads more than it writes");
  if (read > 0) {
    const uint64_t from = t[i.operands[1].reg[0]] + static_cast<uint64_t>(i.operands[1].offset);
    if (from % copy.bytes != 0) Fault("cp.async: misaligned global address");
    std::memcpy(copy.data.data(), t.block->device->At(from, read, 1, "cp.async"), read);
  }
  t.block->shared->BeginAsync(t.accessor(), copy.to, copy.bytes);
  t.open_group.push_back(copy);
}

void RunCommit(const Instruction&, Thread& t) {
  t.async_groups.push_back(std::move(t.open_group));
  t.open_group.clear();
}

void RunWaitGroup(const Instruction& i, Thread& t) {
  const uint64_t allowed = t[i.operands[0].reg[0]];
  while (t.async_groups.size() > allowed) {
    Land(t, t.async_groups.front());
    t.async_groups.pop_front();
  }
}

void RunWaitAll(const Instruction& i, Thread& t) {
  RunCommit(i, t);
  while (!t.async_groups.empty()) {
    Land(t, t.async_groups.front());
    t.async_groups.pop_front();
  }
}

}  // namespace

bool DecodeAsync(Modifiers& m, Instruction& i) {
  if (m.base() != "cp" || !m.TakeNext("async")) return false;
  if (m.Take("commit_group")) {
    i.run = RunCommit;
    return true;
  }
  if (m.Take("wait_group")) {
    i.run = RunWaitGroup;
    return i.operands.size() == 1;
  }
  if (m.Take("wait_all")) {
    i.run = RunWaitAll;
    return true;
  }
  const int cache = m.TakeOneOf({"ca", "cg"});
  i.mode = static_cast<uint8_t>(cache);
  i.run = RunCopy;
  m.TakeOneOf({"L2::64B", "L2::128B", "L2::256B"});
  return cache >= 0 && m.Take("shared") && m.Take("global") && i.operands.size() >= 3;
}

}  // namespace ptxsim
