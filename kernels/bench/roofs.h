// What this machine can do at best, measured: the denominators of every benchmark.
// Peaks are the fastest of several runs; arithmetic loops live in registers, so nothing
// but the execution units limits them.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/cpu/isa.h"
#include "kernels/cpu/memory.h"
#include "kernels/cpu/thread_pool.h"

namespace skim {

// A multiplication and an addition count as two operations. All threads of the pool run.
double MeasureBf16Flops(ThreadPool& pool, Isa isa);
// 8-bit multiply-accumulate of the path's best unit: AMX, VNNI, AVX2 (vpmaddubsw), or plain.
double MeasureInt8Ops(ThreadPool& pool, Isa isa);

// Reads a buffer far larger than the caches. Other tenants of a shared machine change its memory
// bandwidth from one second to the next, so what is limited by it is to be compared with readings
// just before and after it.
class ReadProbe {
 public:
  explicit ReadProbe(ThreadPool* pool, size_t bytes = size_t{256} << 20);
  double BytesPerSecond();  // one reading

 private:
  ThreadPool* pool_;
  int64_t words_;
  AlignedMemory memory_;
};

// The best of several readings.
double MeasureReadBandwidth(ThreadPool& pool);

}  // namespace skim
