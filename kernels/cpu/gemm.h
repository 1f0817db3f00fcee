// Matrix products of the CPU backend: cuts y = x W^T into tiles, spreads them over the
// threads and drives an instruction set's micro-kernels.
#pragma once

#include <cstdint>

#include "kernels/cpu/gemm_kernels.h"
#include "kernels/cpu/isa.h"
#include "kernels/cpu/memory.h"
#include "kernels/cpu/packed_weight.h"
#include "kernels/cpu/thread_pool.h"
#include "kernels/matrix.h"

namespace skim {

const GemmKernels& GemmKernelsOf(Isa isa);

// Used by one thread at a time. Allocates when made, and again only when an input that has to
// be padded or quantised first is larger than any before.
class Gemm {
 public:
  Gemm(ThreadPool* pool, const GemmKernels& kernels);

  // Shapes as in Ops::Linear and Ops::LinearSwiGlu; mismatches are our own fault (CHECK).
  void Linear(Matrix<const Bf16> x, const CpuPackedWeight& weight, const float* bias,
              bool accumulate, Matrix<float> y);
  void LinearSwiGlu(Matrix<const Bf16> x, const CpuPackedWeight& weight, const float* bias,
                    Matrix<Bf16> y);

 private:
  struct Share;  // the rows and blocks of one thread
  struct Input;  // x as the tile function reads it

  // Calls store(row, rows, block, width, acc) for every finished tile.
  template <typename Store>
  void Run(Matrix<const Bf16> x, const CpuPackedWeight& weight, const Store& store);
  template <typename Store>
  void RunShare(const Share& share, const Input& x, const CpuPackedWeight& weight, int thread,
                const Store& store);
  void PadRows(Matrix<const Bf16> x, int64_t padded_k);

  ThreadPool* pool_;
  const GemmKernels& kernels_;
  AlignedMemory accumulators_;  // one buffer per thread
  AlignedMemory expanded_;      // one chunk of weights per thread
  AlignedMemory input_;         // padded or quantised x
};

}  // namespace skim
