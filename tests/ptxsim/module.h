// A PTX module in the form the interpreter runs.
//
// Every scalar operand is an index into the thread's register file: constants, addresses of
// variables and special registers (%tid.x, ...) are registers too, filled in before a thread
// starts. So no handler ever asks what kind of operand it has.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

namespace ptxsim {

enum class Type : uint8_t {
  kNone,
  kPred,
  kB8,
  kB16,
  kB32,
  kB64,
  kU8,
  kU16,
  kU32,
  kU64,
  kS8,
  kS16,
  kS32,
  kS64,
  kF16,
  kF16x2,
  kBf16,
  kBf16x2,
  kF32,
  kF64
};
int BytesOf(Type type);

enum class Space : uint8_t { kGeneric, kGlobal, kShared, kLocal, kParam };
enum class Rounding : uint8_t { kNearest, kZero, kDown, kUp };

// Registers that exist in every thread, before the named ones.
enum SpecialRegister : uint16_t {
  kTidX,
  kTidY,
  kTidZ,
  kNtidX,
  kNtidY,
  kNtidZ,
  kCtaidX,
  kCtaidY,
  kCtaidZ,
  kNctaidX,
  kNctaidY,
  kNctaidZ,
  kLaneId,
  kWarpId,
  kDynamicSharedSize,
  kSink,
  kSpecialRegisters
};

struct Operand {
  uint8_t count = 0;  // registers: 1, or more for {a, b, ..} and a|b
  bool negated = false;
  bool memory = false;  // [reg[0] + offset]
  std::array<uint16_t, 4> reg{};
  int64_t offset = 0;
};

struct Instruction;
class Thread;
class Warp;
// `mode` of a barrier that reduces a predicate over the block.
enum BarrierReduction : uint8_t { kBarrierCount, kBarrierAnd, kBarrierOr };

// Runs one instruction of one thread; the thread's pc already points to the next.
using Handler = void (*)(const Instruction&, Thread&);
// Runs one instruction for the lanes of `mask`, which all stand at it.
using WarpHandler = void (*)(const Instruction&, Warp&, uint32_t mask);

struct Instruction {
  int line = 0;  // of the PTX text
  std::string opcode;
  int guard = -1;  // predicate register, or none
  bool guard_negated = false;
  std::vector<Operand> operands;
  std::string label;  // of a branch
  int target = -1;

  // Filled in by Decode.
  Handler run = nullptr;
  WarpHandler run_warp = nullptr;  // then `run` is null
  bool barrier = false;            // of the block: neither
  int mask_operand = -1;           // of a warp instruction; -1: all 32 lanes
  Type type = Type::kNone, type2 = Type::kNone;
  Space space = Space::kGeneric;
  Rounding rounding = Rounding::kNearest;
  uint8_t mode = 0;  // what it means is up to the handler
  uint8_t mode2 = 0;
  bool saturate = false, flush = false;
};

struct Parameter {
  std::string name;
  int offset, bytes;
};

struct Kernel {
  std::string name;
  std::vector<Parameter> parameters;
  int parameter_bytes = 0;
  int static_shared_bytes = 0;
  int local_bytes = 0;              // per thread
  int max_threads = 0;              // .maxntid, 0 = not given
  std::vector<uint64_t> registers;  // initial values: constants in their places
  std::vector<Instruction> code;
  int current_line = 0;  // while it runs
  bool decoded = false;
};

struct Module {
  std::map<std::string, Kernel> kernels;
  int target = 0;  // 80 of sm_80
};

// Ends the process with a fault naming the line that it does not understand.
std::unique_ptr<Module> ParseModule(const std::string& text);

// Chooses the handlers of a kernel's instructions; a fault for an opcode it does not know.
void Decode(Kernel& kernel);

}  // namespace ptxsim
