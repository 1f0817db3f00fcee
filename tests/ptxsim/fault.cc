#include "tests/ptxsim/fault.h"

#include <cstdio>
#include <cstdlib>

namespace ptxsim {
namespace {

const std::string* fault_kernel = nullptr;
const int* fault_line = nullptr;

}  // namespace

void SetFaultPlace(const std::string* kernel, const int* line) {
  fault_kernel = kernel;
  fault_line = line;
}

void Fault(const std::string& what) {
  std::fprintf(stderr, "ptxsim: %s", what.c_str());
  if (fault_kernel != nullptr) {
    std::fprintf(stderr, " (kernel %s, PTX line %d)", fault_kernel->c_str(), *fault_line);
  }
  std::fputc('\n', stderr);
  std::fflush(nullptr);
  std::_Exit(kFaultExitCode);
}

}  // namespace ptxsim
