// A simulated thread, its warp and its block. Threads run one at a time, each until it meets
// a barrier or a warp collective; which goes next is random (block.h).
#pragma once

#include <array>
#include <cstdint>
#include <deque>
#include <random>
#include <string>
#include <vector>

#include "tests/ptxsim/device_memory.h"
#include "tests/ptxsim/module.h"
#include "tests/ptxsim/shared_memory.h"

namespace ptxsim {

using Random = std::mt19937_64;

struct AsyncCopy {
  uint64_t to = 0;  // shared address
  int bytes = 0;
  std::array<uint8_t, 16> data{};
};

class Block;

class Thread {
 public:
  enum State : uint8_t { kReady, kAtBarrier, kAtCollective, kExited };

  uint64_t* regs = nullptr;  // [kernel.registers.size()]
  int pc = 0;
  State state = kReady;
  int index = 0;  // linear in the block
  Warp* warp = nullptr;
  Block* block = nullptr;
  std::vector<uint8_t> local;
  std::vector<AsyncCopy> open_group;                // cp.async since the last commit
  std::deque<std::vector<AsyncCopy>> async_groups;  // committed, oldest first

  int lane() const { return index % 32; }
  uint64_t& operator[](uint16_t reg) { return regs[reg]; }
  Accessor accessor() const;
};

class Warp {
 public:
  Thread* lanes = nullptr;
  int lane_count = 0;           // 32 but in the last warp of an odd block
  std::vector<uint32_t> syncs;  // masks of __syncwarp since the last block barrier
  uint32_t exited = 0;
  std::vector<Thread*> ready;

  Thread& lane(int i) { return lanes[i]; }
};

inline Accessor Thread::accessor() const { return {index, &warp->syncs}; }

class Block {
 public:
  Kernel* kernel = nullptr;
  const uint8_t* parameters = nullptr;
  DeviceMemory* device = nullptr;
  SharedMemory* shared = nullptr;
  Random* random = nullptr;
  std::vector<Thread> threads;
  std::vector<Warp> warps;
};

}  // namespace ptxsim
