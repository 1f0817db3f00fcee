#include "tests/ptxsim/launch.h"

#include <algorithm>
#include <bit>
#include <numeric>

#include "tests/ptxsim/fault.h"
#include "tests/ptxsim/values.h"

namespace ptxsim {
namespace {

constexpr int kWarpLanes = 32;

// One block from its first instruction to the end of its last thread.
class BlockRun {
 public:
  BlockRun(const Launch& launch, DeviceMemory& memory, Random& random, unsigned x, unsigned y,
           unsigned z)
      : kernel_(*launch.kernel),
        random_(random),
        shared_(launch.kernel->static_shared_bytes + launch.dynamic_shared_bytes),
        count_(launch.block[0] * launch.block[1] * launch.block[2]),
        registers_(count_ * kernel_.registers.size()) {
    block_.kernel = &kernel_;
    block_.parameters = launch.parameters.data();
    block_.device = &memory;
    block_.shared = &shared_;
    block_.random = &random;
    block_.threads.resize(count_);
    block_.warps.resize((count_ + kWarpLanes - 1) / kWarpLanes);
    for (unsigned i = 0; i < count_; ++i) {
      Thread& thread = block_.threads[i];
      thread.regs = registers_.data() + i * kernel_.registers.size();
      std::copy(kernel_.registers.begin(), kernel_.registers.end(), thread.regs);
      thread.index = static_cast<int>(i);
      thread.block = &block_;
      thread.local.resize(kernel_.local_bytes);
      Warp& warp = block_.warps[i / kWarpLanes];
      if (warp.lanes == nullptr) warp.lanes = &thread;
      ++warp.lane_count;
      thread.warp = &warp;
      const uint64_t special[] = {i % launch.block[0],
                                  i / launch.block[0] % launch.block[1],
                                  i / (launch.block[0] * launch.block[1]),
                                  launch.block[0],
                                  launch.block[1],
                                  launch.block[2],
                                  x,
                                  y,
                                  z,
                                  launch.grid[0],
                                  launch.grid[1],
                                  launch.grid[2],
                                  i % kWarpLanes,
                                  i / kWarpLanes,
                                  static_cast<uint64_t>(launch.dynamic_shared_bytes)};
      std::copy(std::begin(special), std::end(special), thread.regs);
    }
  }

  void Run() {
    std::vector<int> order(block_.warps.size());
    std::iota(order.begin(), order.end(), 0);
    while (true) {
      std::shuffle(order.begin(), order.end(), random_);
      bool moved = false;
      for (int w : order) moved |= RunWarp(block_.warps[w]);
      if (moved) continue;
      if (Everyone(Thread::kExited)) break;
      ReleaseBarrier();
    }
    for (const Thread& thread : block_.threads) {
      if (!thread.open_group.empty() || !thread.async_groups.empty()) {
        Fault("thread " + std::to_string(thread.index) + " ends without waiting for its cp.async");
      }
    }
  }

 private:
  bool Everyone(Thread::State state) const {
    return std::all_of(block_.threads.begin(), block_.threads.end(),
                       [&](const Thread& t) { return t.state == state; });
  }

  // Runs every ready lane as far as it goes, then the collectives that are complete.
  bool RunWarp(Warp& warp) {
    std::array<int, kWarpLanes> lanes;
    std::iota(lanes.begin(), lanes.end(), 0);
    std::shuffle(lanes.begin(), lanes.begin() + warp.lane_count, random_);
    bool moved = false;
    for (int i = 0; i < warp.lane_count; ++i) {
      Thread& thread = warp.lane(lanes[i]);
      if (thread.state != Thread::kReady) continue;
      RunThread(thread);
      moved = true;
    }
    for (int i = 0; i < warp.lane_count; ++i) {
      Thread& thread = warp.lane(i);
      if (thread.state == Thread::kAtCollective) moved |= TryCollective(warp, thread);
    }
    return moved;
  }

  void RunThread(Thread& thread) {
    const Instruction* code = kernel_.code.data();
    while (true) {
      if (thread.pc >= static_cast<int>(kernel_.code.size())) Fault("a thread runs past the end");
      const Instruction& instruction = code[thread.pc];
      kernel_.current_line = instruction.line;
      if (instruction.guard >= 0 && (thread[instruction.guard] != 0) == instruction.guard_negated) {
        ++thread.pc;
        continue;
      }
      if (instruction.run == nullptr) {
        thread.state = instruction.barrier ? Thread::kAtBarrier : Thread::kAtCollective;
        return;
      }
      ++thread.pc;
      instruction.run(instruction, thread);
      if (thread.state == Thread::kExited) {
        thread.warp->exited |= 1u << thread.lane();
        return;
      }
    }
  }

  uint32_t MaskOf(const Instruction& instruction, Thread& thread) const {
    if (instruction.mask_operand < 0) return ~0u;
    return static_cast<uint32_t>(thread[instruction.operands[instruction.mask_operand].reg[0]]);
  }

  // Runs the collective that `thread` waits at once all lanes of its mask have come.
  bool TryCollective(Warp& warp, Thread& thread) {
    const Instruction& instruction = kernel_.code[thread.pc];
    kernel_.current_line = instruction.line;
    const uint32_t mask = MaskOf(instruction, thread);
    const std::string who = instruction.opcode + ", lane " + std::to_string(thread.lane());
    if ((mask >> thread.lane() & 1) == 0) Fault(who + ": the mask leaves out the lane itself");
    if (warp.lane_count < kWarpLanes && mask >> warp.lane_count != 0) {
      Fault(who + ": the mask names lanes that the block does not have");
    }
    if ((mask & warp.exited) != 0) Fault(who + ": the mask names a lane that has exited");
    for (int i = 0; i < warp.lane_count; ++i) {
      if ((mask >> i & 1) == 0) continue;
      Thread& other = warp.lane(i);
      if (other.state != Thread::kAtCollective || other.pc != thread.pc) return false;
      if (MaskOf(instruction, other) != mask) Fault(who + ": lanes disagree about the mask");
    }
    for (int i = 0; i < warp.lane_count; ++i) {
      if ((mask >> i & 1) == 0) continue;
      warp.lane(i).state = Thread::kReady;
      ++warp.lane(i).pc;
    }
    instruction.run_warp(instruction, warp, mask);
    return true;
  }

  // Nobody can move: everyone must stand at the same barrier.
  void ReleaseBarrier() {
    const Thread& first = block_.threads[0];
    for (const Thread& thread : block_.threads) {
      kernel_.current_line =
          kernel_.code[std::min<size_t>(thread.pc, kernel_.code.size() - 1)].line;
      if (thread.state == Thread::kAtCollective) {
        Fault("deadlock: lane " + std::to_string(thread.lane()) + " of warp " +
              std::to_string(thread.index / kWarpLanes) +
              " waits for lanes that never come to its warp instruction");
      }
      if (thread.state != Thread::kAtBarrier || first.state != Thread::kAtBarrier ||
          thread.pc != first.pc) {
        Fault("divergent barrier: threads 0 and " + std::to_string(thread.index) +
              " do not meet at the same barrier");
      }
    }
    Reduce(kernel_.code[first.pc]);
    for (Thread& thread : block_.threads) {
      thread.state = Thread::kReady;
      ++thread.pc;
    }
    for (Warp& warp : block_.warps) warp.syncs.clear();
    shared_.Barrier();
  }

  // bar.red d, barrier, {!}p
  void Reduce(const Instruction& barrier) {
    if (barrier.operands.size() < 3) return;
    uint64_t count = 0;
    for (Thread& thread : block_.threads) count += GetPredicate(thread, barrier.operands[2]);
    const uint64_t result = barrier.mode == kBarrierCount ? count
                            : barrier.mode == kBarrierAnd ? count == count_
                                                          : count > 0;
    for (Thread& thread : block_.threads) thread[barrier.operands[0].reg[0]] = result;
  }

  Kernel& kernel_;
  Random& random_;
  SharedMemory shared_;
  const unsigned count_;
  std::vector<uint64_t> registers_;
  Block block_;
};

}  // namespace

void Run(const Launch& launch, DeviceMemory& memory, Random& random) {
  SetFaultPlace(&launch.kernel->name, &launch.kernel->current_line);
  std::vector<uint64_t> order(uint64_t{launch.grid[0]} * launch.grid[1] * launch.grid[2]);
  std::iota(order.begin(), order.end(), uint64_t{0});
  std::shuffle(order.begin(), order.end(), random);
  for (uint64_t i : order) {
    const auto x = static_cast<unsigned>(i % launch.grid[0]);
    const auto y = static_cast<unsigned>(i / launch.grid[0] % launch.grid[1]);
    const auto z = static_cast<unsigned>(i / launch.grid[0] / launch.grid[1]);
    BlockRun(launch, memory, random, x, y, z).Run();
  }
  SetFaultPlace(nullptr, nullptr);
}

}  // namespace ptxsim
