#include "kernels/cpu/isa.h"

#include <cstdint>
#include <string>

#if defined(__x86_64__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "kernels/cpu/amx_probe.h"
#endif

namespace skim {
namespace {

#if defined(__x86_64__)

struct CpuidLeaf {
  uint32_t a = 0, b = 0, c = 0, d = 0;
};

CpuidLeaf Cpuid(uint32_t leaf, uint32_t sub) {
  CpuidLeaf r;
  if (!__get_cpuid_count(leaf, sub, &r.a, &r.b, &r.c, &r.d)) return {};
  return r;
}

bool Bit(uint32_t word, int bit) { return (word >> bit) & 1u; }

// Register state the operating system saves on a context switch (XCR0).
uint64_t OsStates() {
  if (!Bit(Cpuid(1, 0).c, 27)) return 0;  // OSXSAVE
  uint32_t low, high;
  __asm__("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return (uint64_t{high} << 32) | low;
}

bool HasAvx2() {
  constexpr uint64_t kYmmStates = 0x6;
  const CpuidLeaf one = Cpuid(1, 0);
  return (OsStates() & kYmmStates) == kYmmStates && Bit(one.c, 28) /* AVX */ &&
         Bit(one.c, 12) /* FMA */ && Bit(Cpuid(7, 0).b, 5) /* AVX2 */;
}

bool HasAvx512() {
  constexpr uint64_t kZmmStates = 0xe6;
  const CpuidLeaf seven = Cpuid(7, 0);
  return (OsStates() & kZmmStates) == kZmmStates && Bit(seven.b, 16) /* F */ &&
         Bit(seven.b, 17) /* DQ */ && Bit(seven.b, 30) /* BW */ && Bit(seven.b, 31) /* VL */ &&
         Bit(seven.c, 1) /* VBMI */ && Bit(seven.c, 11) /* VNNI */ &&
         Bit(Cpuid(7, 1).a, 5) /* BF16 */;
}

// Tile data is state a process has to ask for; a container may refuse the request, a
// hypervisor may fault on the instruction. Hence a trial, in a child process so that a
// fault is an exit status.
bool MayUseAmx() {
  constexpr uint64_t kTileStates = 0x60000;
  constexpr long kRequestPermission = 0x1023;  // ARCH_REQ_XCOMP_PERM
  constexpr long kTileData = 18;
  const uint32_t d = Cpuid(7, 0).d;
  if ((OsStates() & kTileStates) != kTileStates || !Bit(d, 24) /* TILE */ || !Bit(d, 22) /* BF16 */ ||
      !Bit(d, 25) /* INT8 */) {
    return false;
  }
  if (syscall(SYS_arch_prctl, kRequestPermission, kTileData) != 0) return false;
  const pid_t child = fork();
  if (child == 0) {
    AmxProbe();
    _exit(0);
  }
  int status = -1;
  return child > 0 && waitpid(child, &status, 0) == child && status == 0;
}

#else

bool HasAvx2() { return false; }
bool HasAvx512() { return false; }
bool MayUseAmx() { return false; }

#endif

constexpr Isa kAll[] = {Isa::kPlain, Isa::kAvx2, Isa::kAvx512, Isa::kAmx};

}  // namespace

std::string_view IsaName(Isa isa) {
  switch (isa) {
    case Isa::kPlain:
      return "plain";
    case Isa::kAvx2:
      return "avx2";
    case Isa::kAvx512:
      return "avx512";
    case Isa::kAmx:
      return "amx";
  }
  return "unknown";
}

std::vector<Isa> SupportedIsas() {
  std::vector<Isa> isas = {Isa::kPlain};
  if (!HasAvx2()) return isas;
  isas.push_back(Isa::kAvx2);
  if (!HasAvx512()) return isas;
  isas.push_back(Isa::kAvx512);
  if (MayUseAmx()) isas.push_back(Isa::kAmx);
  return isas;
}

absl::StatusOr<Isa> ChooseIsa(std::string_view name) {
  const std::vector<Isa> supported = SupportedIsas();
  if (name == "auto") return supported.back();
  for (Isa isa : kAll) {
    if (IsaName(isa) != name) continue;
    for (Isa has : supported) {
      if (has == isa) return isa;
    }
    return absl::FailedPreconditionError("isa: this machine does not offer " + std::string(name) +
                                         "; the best it has is " +
                                         std::string(IsaName(supported.back())));
  }
  return absl::InvalidArgumentError("isa: must be auto, amx, avx512, avx2 or plain, not '" +
                                    std::string(name) + "'");
}

}  // namespace skim
