// Small CUDA programs, one of which `ptxsim_programs NAME` runs. A correct one returns 0.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdio>
#include <map>
#include <string>

using Program = int (*)();
using Programs = std::map<std::string, Program>;

Programs CorrectPrograms();  // exact.cu: they compare the device's results with the host's
Programs ProductPrograms();  // exact_products.cu: the same
Programs TilePrograms();     // exact_tiles.cu: the same
Programs MatmulPrograms();   // matmul_programs.cc: right ones and canaries of cuBLASLt
Programs GraphPrograms();    // graph_programs.cu: the same of stream capture and graphs
Programs Canaries();         // canaries.cu: each breaks one rule and must not get past it

#define MUST(call)                                                              \
  do {                                                                          \
    const cudaError_t error_ = (call);                                          \
    if (error_ != cudaSuccess) {                                                \
      std::printf("%s:%d: %s\n", __FILE__, __LINE__, cudaGetErrorName(error_)); \
      return 1;                                                                 \
    }                                                                           \
  } while (false)

#define EXPECT(condition)                                                 \
  do {                                                                    \
    if (!(condition)) {                                                   \
      std::printf("%s:%d: not so: %s\n", __FILE__, __LINE__, #condition); \
      return 1;                                                           \
    }                                                                     \
  } while (false)
