#include "kernels/bench/roofs.h"

#include <algorithm>
#include <chrono>
#include <utility>

#include "base/check.h"
#include "kernels/bench/roof_loops.h"
#include "kernels/cpu/memory.h"

namespace skim {
namespace {

constexpr int kRuns = 7;
constexpr int64_t kGrain = 512;  // words: whole pages

double SecondsNow() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

// Keeps a value alive without storing it anywhere the compiler knows of.
void Consume(int64_t value) { __asm__ volatile("" ::"r"(value) : "memory"); }

double Peak(ThreadPool& pool, const RoofLoop& loop) {
  const auto seconds = [&](int64_t iterations) {
    const double start = SecondsNow();
    pool.Run([&](int) { Consume(loop.run(iterations)); });
    return SecondsNow() - start;
  };
  int64_t iterations = 1000;
  while (seconds(iterations) < 0.05) iterations *= 2;
  double best = seconds(iterations);
  for (int run = 1; run < kRuns; ++run) best = std::min(best, seconds(iterations));
  return loop.ops_per_iteration * iterations * pool.threads() / best;
}

int64_t Sum(const int64_t* data, int64_t count) {
  int64_t sums[16] = {};
  for (int64_t i = 0; i < count; i += 16) {
    for (int lane = 0; lane < 16; ++lane) sums[lane] += data[i + lane];
  }
  int64_t sum = 0;
  for (int64_t s : sums) sum += s;
  return sum;
}

}  // namespace

double MeasureBf16Flops(ThreadPool& pool, Isa isa) {
  switch (isa) {
    case Isa::kAmx:
      return Peak(pool, kBf16Amx);
    case Isa::kAvx512:
      return Peak(pool, kBf16Avx512);
    case Isa::kAvx2:
      return Peak(pool, kBf16Avx2);
    case Isa::kPlain:
      break;
  }
  return Peak(pool, kBf16Plain);
}

double MeasureInt8Ops(ThreadPool& pool, Isa isa) {
  switch (isa) {
    case Isa::kAmx:
      return Peak(pool, kInt8Amx);
    case Isa::kAvx512:
      // Every processor with AVX-512 BF16 known so far has VNNI, but the path asks for BF16 only.
      return Peak(pool, __builtin_cpu_supports("avx512vnni") ? kInt8Vnni : kInt8Avx2);
    case Isa::kAvx2:
      return Peak(pool, kInt8Avx2);
    case Isa::kPlain:
      break;
  }
  return Peak(pool, kInt8Plain);
}

ReadProbe::ReadProbe(ThreadPool* pool, size_t bytes)
    : pool_(pool), words_(static_cast<int64_t>(bytes / sizeof(int64_t)) / kGrain * kGrain) {
  auto memory = AlignedMemory::Allocate(words_ * sizeof(int64_t));
  SKIM_CHECK(memory.ok());
  memory_ = *std::move(memory);
  auto* data = reinterpret_cast<int64_t*>(memory_.data());
  pool_->Split(words_, kGrain, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) data[i] = i;
  });
}

double ReadProbe::BytesPerSecond() {
  const auto* data = reinterpret_cast<const int64_t*>(memory_.data());
  const double start = SecondsNow();
  pool_->Split(words_, kGrain,
               [&](int64_t begin, int64_t end) { Consume(Sum(data + begin, end - begin)); });
  return words_ * sizeof(int64_t) / (SecondsNow() - start);
}

double MeasureReadBandwidth(ThreadPool& pool) {
  ReadProbe probe(&pool);
  double best = 0;
  for (int run = 0; run < kRuns; ++run) best = std::max(best, probe.BytesPerSecond());
  return best;
}

}  // namespace skim
