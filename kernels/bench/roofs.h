// What this machine can do at best, measured: the denominators of every benchmark.
// Peaks are the fastest of several runs; arithmetic loops live in registers, so nothing
// but the execution units limits them.
#pragma once

#include <cstddef>

#include "kernels/cpu/isa.h"
#include "kernels/cpu/thread_pool.h"

namespace skim {

// A multiplication and an addition count as two operations. All threads of the pool run.
double MeasureBf16Flops(ThreadPool& pool, Isa isa);
// 8-bit multiply-accumulate of the path's best unit: AMX, VNNI, AVX2 (vpmaddubsw), or plain.
double MeasureInt8Ops(ThreadPool& pool, Isa isa);
// Bytes per second of reading a buffer far larger than the caches.
double MeasureReadBandwidth(ThreadPool& pool, size_t bytes = size_t{512} << 20);

}  // namespace skim
