#include "kernels/bench/roof_loops.h"

namespace skim {
namespace {

constexpr int kLanes = 32;

int64_t Float(int64_t iterations) {
  float sums[kLanes] = {}, x = 1.0f;
  __asm__ volatile("" : "+m"(sums), "+m"(x));
  for (int64_t i = 0; i < iterations; ++i) {
    for (int lane = 0; lane < kLanes; ++lane) sums[lane] = sums[lane] * x + x;
  }
  float sum = 0;
  for (float s : sums) sum += s;
  return static_cast<int64_t>(sum);
}

int64_t Int(int64_t iterations) {
  int32_t sums[kLanes] = {};
  int8_t x = 3;
  __asm__ volatile("" : "+m"(sums));
  for (int64_t i = 0; i < iterations; ++i) {
    __asm__ volatile("" : "+r"(x));
    for (int lane = 0; lane < kLanes; ++lane) sums[lane] += x * static_cast<int8_t>(x + lane);
  }
  int64_t sum = 0;
  for (int32_t s : sums) sum += s;
  return sum;
}

}  // namespace

const RoofLoop kBf16Plain = {2.0 * kLanes, Float};
const RoofLoop kInt8Plain = {2.0 * kLanes, Int};

}  // namespace skim
