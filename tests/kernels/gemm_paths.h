// Every way this machine can multiply, and the emulated AMX unit everywhere.
#pragma once

#include <ostream>
#include <string>
#include <vector>

#include "kernels/cpu/gemm_kernels.h"

namespace skim {

struct GemmPath {
  std::string name;
  const GemmKernels* kernels;
  bool slow;  // scalar code: smaller cases do

  friend void PrintTo(const GemmPath& path, std::ostream* out) { *out << path.name; }
};

std::vector<GemmPath> GemmPaths();
const GemmKernels& EmulatedAmxKernels();

}  // namespace skim
