// skim-gpu-check: what a GPU is asked, without network. gpu_check.sh runs its parts.
//   skim-gpu-check device             one line of JSON about the device; 1 without one
//   skim-gpu-check bench DIR [tiny]   DIR gets a model with random weights for a while
//   skim-gpu-check tests [GTEST...]   the backend against the CPU
#include <cuda_runtime_api.h>
#include <gtest/gtest.h>

#include <cstdio>
#include <cstring>

#include "tests/gpu/benches.h"

namespace skim {
namespace {

// What tests/ptxsim calls itself.
constexpr char kSimulator[] = "ptxsim";

int CheckDevice() {
  cudaDeviceProp properties;
  int driver = 0, runtime = 0;
  const cudaError_t error = cudaGetDeviceProperties(&properties, 0);
  if (error != cudaSuccess) {
    std::printf("%s\n", Json{{"suite", "gpu"},
                             {"name", "device"},
                             {"passed", false},
                             {"params", {{"status", cudaGetErrorName(error)}}}}
                            .dump()
                            .c_str());
    return 1;
  }
  cudaDriverGetVersion(&driver);
  cudaRuntimeGetVersion(&runtime);
  Report report(properties.name, properties.name == std::string(kSimulator));
  report.Checked("device", true,
                 {{"compute_capability",
                   std::to_string(properties.major) + "." + std::to_string(properties.minor)},
                  {"multiprocessors", properties.multiProcessorCount},
                  {"memory_bytes", properties.totalGlobalMem},
                  {"cuda_of_driver", driver},
                  {"cuda_of_runtime", runtime}});
  return 0;
}

int Bench(const std::string& directory, bool tiny) {
  cudaDeviceProp properties;
  if (cudaGetDeviceProperties(&properties, 0) != cudaSuccess) return 1;
  Report report(properties.name, properties.name == std::string(kSimulator));
  const std::optional<double> copy = RunKernelBench(tiny, &report);
  RunEngineBench(tiny, directory, copy, &report);
  return report.passed() ? 0 : 1;
}

int Main(int argc, char** argv) {
  const std::string part = argc > 1 ? argv[1] : "";
  if (part == "device" && argc == 2) return CheckDevice();
  if (part == "bench" && (argc == 3 || (argc == 4 && std::strcmp(argv[3], "tiny") == 0))) {
    return Bench(argv[2], argc == 4);
  }
  if (part == "tests") {
    testing::InitGoogleTest(&argc, argv);
    return RUN_ALL_TESTS();
  }
  std::fprintf(stderr, "usage: skim-gpu-check device | bench DIR [tiny] | tests [GTEST...]\n");
  return 2;
}

}  // namespace
}  // namespace skim

int main(int argc, char** argv) { return skim::Main(argc, argv); }
