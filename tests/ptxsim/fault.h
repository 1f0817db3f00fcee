// What the simulator does when it sees a program break a rule of the device: it says which
// rule, where, and ends the process. Nothing is tolerated, so a program that ends normally
// has broken none.
#pragma once

#include <string>

namespace ptxsim {

inline constexpr int kFaultExitCode = 86;

// Prints "ptxsim: <what>" to stderr and exits with kFaultExitCode.
[[noreturn]] void Fault(const std::string& what);

// The same, naming the kernel and its line of PTX while one runs (set by the launch).
void SetFaultPlace(const std::string* kernel, const int* line);

}  // namespace ptxsim
