// Which instruction path the CPU kernels take. One path serves every op and every number
// of rows of a process: different units round differently, and a row's bits must not
// depend on its batch (G1).
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

namespace skim {

enum class Isa {
  kPlain,   // portable C++
  kAvx2,    // AVX2 + FMA; weights widened to float or int16
  kAvx512,  // AVX-512 F/BW/VL/DQ/VBMI + BF16 (VDPBF16PS) + VNNI (VPDPBUSD)
  kAmx,     // AMX-BF16 and -INT8 tiles for products, AVX-512 for the rest
};

std::string_view IsaName(Isa isa);  // "plain", "avx2", "avx512", "amx"

// What this process may use, ascending. Asks the kernel for AMX tile state (arch_prctl)
// and tries a tile instruction, as a container may refuse it.
std::vector<Isa> SupportedIsas();

// "auto" = the best supported. FAILED_PRECONDITION if the machine lacks it.
absl::StatusOr<Isa> ChooseIsa(std::string_view name);

}  // namespace skim
