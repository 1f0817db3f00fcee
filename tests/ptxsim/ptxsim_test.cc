// The simulated device against small programs that the real nvcc compiled: right ones must end
// well and give the host's results, broken ones must be stopped for the right reason.
#include <gtest/gtest.h>
#include <sys/wait.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <string>

namespace {

constexpr int kFaultExitCode = 86;

struct Ending {
  int exit_code = -1;  // -1: killed by a signal
  std::string output;
};

// With the simulator preloaded and `settings` (NAME=value ..) in the environment.
Ending RunProgram(const std::string& program, const std::string& settings = "") {
  const std::string command =
      settings + " LD_PRELOAD=" PTXSIM_LIBRARY " exec " PTXSIM_PROGRAMS " " + program + " 2>&1";
  Ending ending;
  FILE* pipe = popen(command.c_str(), "r");
  std::array<char, 256> buffer;
  while (std::fgets(buffer.data(), buffer.size(), pipe) != nullptr) ending.output += buffer.data();
  const int status = pclose(pipe);
  if (WIFEXITED(status)) ending.exit_code = WEXITSTATUS(status);
  return ending;
}

std::string TestName(std::string program) {
  std::replace(program.begin(), program.end(), '-', '_');
  return program;
}

class Correct : public testing::TestWithParam<std::string> {};

TEST_P(Correct, ProgramsEndWellInAnyOrder) {
  for (int seed : {1, 2, 3}) {
    const Ending ending = RunProgram(GetParam(), "PTXSIM_SEED=" + std::to_string(seed));
    EXPECT_EQ(ending.exit_code, 0) << "seed " << seed << ": " << ending.output;
  }
}

INSTANTIATE_TEST_SUITE_P(Ptxsim, Correct,
                         testing::Values("integers", "loads", "bits", "floats", "warps", "events",
                                         "limits", "pools", "plain", "products", "packed", "matmul",
                                         "matmul-integers", "matrices", "async", "graphs",
                                         "broken_captures", "captures_in_threads"),
                         [](const auto& info) { return TestName(info.param); });

struct Canary {
  std::string name, reason;
};

class Broken : public testing::TestWithParam<Canary> {};

TEST_P(Broken, ProgramIsStoppedAndTheReasonNamed) {
  for (int seed : {1, 2, 3}) {
    const Ending ending = RunProgram(GetParam().name, "PTXSIM_SEED=" + std::to_string(seed));
    EXPECT_EQ(ending.exit_code, kFaultExitCode) << ending.output;
    EXPECT_NE(ending.output.find(GetParam().reason), std::string::npos) << ending.output;
  }
}

INSTANTIATE_TEST_SUITE_P(
    Ptxsim, Broken,
    testing::Values(
        Canary{"missing-barrier", "shared"},
        Canary{"missing-barrier-before-reuse", "shared-memory race"},
        Canary{"missing-warp-sync", "shared"}, Canary{"divergent-barrier", "divergent barrier"},
        Canary{"barrier-after-exit", "divergent barrier"}, Canary{"out-of-bounds", "out of bounds"},
        Canary{"before-the-buffer", "out of bounds"}, Canary{"misaligned", "misaligned"},
        Canary{"shared-out-of-bounds", "out of bounds of shared memory"},
        Canary{"uninitialised-shared", "uninitialised shared"},
        Canary{"async-one-group-too-few", "cp.async has not been waited for"},
        Canary{"async-without-barrier", "shared"},
        Canary{"async-nobody-waits", "without waiting for its cp.async"},
        Canary{"matrix-rows-misaligned", "misaligned shared address"},
        Canary{"matrix-of-a-copy-under-way", "cp.async has not been waited for"},
        Canary{"matrix-without-barrier", "shared"},
        Canary{"shuffle-mask-of-half", "mask leaves out"},
        Canary{"shuffle-from-outside", "mask leaves out"},
        Canary{"shuffle-after-exit", "has exited"}, Canary{"shuffle-in-a-branch", "never come"},
        Canary{"unknown-opcode", "unknown opcode sad.s32 (kernel"},
        Canary{"use-after-free", "use after free"}, Canary{"pool-out-of-bounds", "out of bounds"},
        Canary{"pool-use-after-free", "use after free"}, Canary{"pool-leak", "leak"},
        Canary{"host-pointer", "no allocation"}, Canary{"leak", "leak"},
        Canary{"double-free", "not allocated"}, Canary{"copy-past-the-end", "out of bounds"},
        Canary{"nobody-waits", "nobody waited for"}, Canary{"matmul-past-the-end", "out of bounds"},
        Canary{"matmul-misaligned", "matrix A is not aligned"},
        Canary{"matmul-workspace-misaligned", "workspace is not aligned"},
        Canary{"matmul-host-pointer", "no allocation"}, Canary{"matmul-leak", "never destroyed"},
        Canary{"matmul-integers-past-the-end", "out of bounds"},
        Canary{"matmul-integers-misaligned", "matrix A is not aligned"},
        Canary{"matmul-integers-too-large", "does not fit"},
        Canary{"graph-nobody-waits", "nobody waited for"},
        Canary{"graph-use-after-free", "use after free"},
        Canary{"graph-copies-freed-host-memory", "no longer pinned"},
        Canary{"graph-out-of-bounds", "out of bounds"},
        Canary{"graph-destroyed-too-early", "before it has run"},
        Canary{"graph-destroyed-twice", "does not exist"}, Canary{"graph-leak", "leak: a graph"},
        Canary{"graph-executable-leak", "leak: an executable graph"},
        Canary{"capture-never-ends", "while a stream captures"},
        Canary{"capture-of-a-destroyed-stream", "destroyed while it captures"},
        Canary{"capture-allocates", "would become a part of the graph"},
        Canary{"capture-frees", "would become a part of the graph"},
        Canary{"capture-records-an-event", "not modelled: an event"}),
    [](const auto& info) { return TestName(info.param.name); });

TEST(Ptxsim, TheHostCannotReadDeviceMemory) {
  EXPECT_NE(RunProgram("host-reads-device").exit_code, 0);
}

TEST(Ptxsim, InjectedFaultsReachTheProgram) {
  Ending ending = RunProgram("plain", "PTXSIM_FAIL_MALLOC=1");
  EXPECT_EQ(ending.exit_code, 1);
  EXPECT_NE(ending.output.find("cudaErrorMemoryAllocation"), std::string::npos) << ending.output;
  // A failed launch is sticky; the program gives up and leaves its memory behind.
  ending = RunProgram("plain", "PTXSIM_FAIL_LAUNCH=1");
  EXPECT_NE(ending.output.find("cudaErrorLaunchFailure"), std::string::npos) << ending.output;
  ending = RunProgram("plain", "PTXSIM_NO_DEVICE=1");
  EXPECT_EQ(ending.exit_code, 1);
  EXPECT_NE(ending.output.find("cudaErrorNoDevice"), std::string::npos) << ending.output;
  ending = RunProgram("graphs", "PTXSIM_FAIL_INSTANTIATION=1");
  EXPECT_NE(ending.output.find("cudaErrorMemoryAllocation"), std::string::npos) << ending.output;
  ending = RunProgram("graphs", "PTXSIM_FAIL_LAUNCH=3");  // the graph's
  EXPECT_NE(ending.output.find("cudaErrorLaunchFailure"), std::string::npos) << ending.output;
}

}  // namespace
