// Single-row kernels, written once over the vector types of vec_*.h.
#pragma once

#include "kernels/cpu/row_kernels.h"
#include "kernels/kv_codes.h"

namespace skim {
namespace {

template <typename V>
struct RowImpl {
  using F = typename V::F;
  static constexpr float kMaxFloat = 3.402823466e+38f;

  static int Lanes(int64_t left) { return static_cast<int>(left < V::kLanes ? left : V::kLanes); }
  static F LoadUpTo(const float* from, int lanes) {
    return lanes == V::kLanes ? V::Load(from) : V::LoadPartial(from, lanes);
  }

  static float InverseRms(const float* x, float eps, int64_t n) {
    constexpr int kSums = 4;
    F sum[kSums] = {V::Set(0), V::Set(0), V::Set(0), V::Set(0)};
    for (int64_t i = 0; i < n; i += kSums * V::kLanes) {
      for (int s = 0; s < kSums && i + s * V::kLanes < n; ++s) {
        const F v = LoadUpTo(x + i + s * V::kLanes, Lanes(n - i - s * V::kLanes));
        sum[s] = V::Add(sum[s], V::Mul(v, v));
      }
    }
    const float total = V::ReduceAdd(V::Add(V::Add(sum[0], sum[1]), V::Add(sum[2], sum[3])));
    return 1 / __builtin_sqrtf(total / static_cast<float>(n) + eps);
  }

  static void RmsNorm(const float* x, const float* weight, float eps, int64_t n, Bf16* y) {
    const F inverse = V::Set(InverseRms(x, eps, n));
    for (int64_t i = 0; i < n; i += V::kLanes) {
      const int lanes = Lanes(n - i);
      const F scaled = V::Mul(LoadUpTo(x + i, lanes), inverse);
      V::StoreBf16(y + i, V::Mul(scaled, LoadUpTo(weight + i, lanes)), lanes);
    }
  }

  static void StoreUpTo(Bf16* to, F a, int lanes) { V::StoreBf16(to, a, lanes); }
  static void StoreUpTo(float* to, F a, int lanes) { V::StorePartial(to, a, lanes); }

  template <typename Out>
  static void Rotate(const RotaryHead& head, Out* y) {
    float normed[kMaxHeadDim];
    const float* x = head.x;
    if (head.norm != nullptr) {
      const F inverse = V::Set(InverseRms(x, head.norm_eps, head.head_dim));
      for (int i = 0; i < head.head_dim; i += V::kLanes) {
        const int lanes = Lanes(head.head_dim - i);
        const F scaled = V::Mul(LoadUpTo(x + i, lanes), inverse);
        V::StorePartial(normed + i, V::Mul(scaled, LoadUpTo(head.norm + i, lanes)), lanes);
      }
      x = normed;
    }
    const int half = head.rotary_dim / 2;
    for (int i = 0; i < half; i += V::kLanes) {
      const int lanes = Lanes(half - i);
      const F a = LoadUpTo(x + i, lanes), b = LoadUpTo(x + half + i, lanes);
      const F cos = LoadUpTo(head.cos + i, lanes), sin = LoadUpTo(head.sin + i, lanes);
      StoreUpTo(y + i, V::Sub(V::Mul(a, cos), V::Mul(b, sin)), lanes);
      StoreUpTo(y + half + i, V::Add(V::Mul(b, cos), V::Mul(a, sin)), lanes);
    }
    for (int i = head.rotary_dim; i < head.head_dim; i += V::kLanes) {
      const int lanes = Lanes(head.head_dim - i);
      StoreUpTo(y + i, LoadUpTo(x + i, lanes), lanes);
    }
  }

  static float QuantizeTo(const float* x, int n, KvFormat format, uint8_t* codes) {
    return format == KvFormat::kInt8 ? Quantize<KvFormat::kInt8>(x, n, codes)
                                     : Quantize<KvFormat::kFp8>(x, n, codes);
  }

  static LogitRange Scan(const float* x, int64_t n) {
    F max = V::Set(-__builtin_inff()), bad = V::Set(0);
    const F zero = V::Set(0), one = V::Set(1), highest = V::Set(kMaxFloat);
    int64_t i = 0;
    for (; n - i >= V::kLanes; i += V::kLanes) {
      const F v = V::Load(x + i);
      max = V::Max(v, max);
      bad = V::Add(bad, V::Select(V::AtLeast(highest, v), zero, one));
    }
    LogitRange range = {V::ReduceMax(max), V::ReduceAdd(bad) != 0};
    for (; i < n; ++i) {
      if (x[i] > range.max) range.max = x[i];
      if (!(x[i] <= kMaxFloat)) range.has_nan_or_inf = true;
    }
    return range;
  }

  static void ExpWeights(const float* x, int64_t n, float max, float temperature, int block,
                         float* weights, double* sums) {
    const F max_lanes = V::Set(max), t = V::Set(temperature);
    for (int64_t begin = 0; begin < n; begin += block, ++sums) {
      const int64_t end = begin + block < n ? begin + block : n;
      F sum = V::Set(0);
      float tail_sum = 0;
      for (int64_t i = begin; i < end; i += V::kLanes) {
        const int lanes = Lanes(end - i);
        const F w = V::Exp(V::Div(V::Sub(LoadUpTo(x + i, lanes), max_lanes), t));
        if (lanes == V::kLanes) {
          sum = V::Add(sum, w);
          if (weights != nullptr) V::Store(weights + i, w);
        } else {  // the lanes past the end hold exp of nothing
          float last[V::kLanes];
          V::Store(last, w);
          for (int l = 0; l < lanes; ++l) {
            tail_sum += last[l];
            if (weights != nullptr) weights[i + l] = last[l];
          }
        }
      }
      *sums = static_cast<double>(V::ReduceAdd(sum)) + tail_sum;
    }
  }

  static constexpr RowKernels Kernels() { return {RmsNorm, Rotate<Bf16>, Rotate<float>, QuantizeTo, Scan, ExpWeights}; }
};

}  // namespace
}  // namespace skim
