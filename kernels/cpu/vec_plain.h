// Sixteen float lanes in portable C++. VecPlain, VecAvx2 and VecAvx512 have the same members,
// so a kernel is written once as a template over the vector type. What they promise:
//   - a lane's result depends on the lane's operands only; partial loads fill with zero
//   - Max and Exp keep a NaN of their last operand; reductions have one fixed tree
//   - Codes<format>::Load makes the two operands of a line of codes (kv_layout.h), exactly
//   - Dot adds a0 b0 and a1 b1 of a pair to the lane, by the dot unit of the path
// Everything has internal linkage: see kernels/CMakeLists.txt.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "base/bf16.h"
#include "kernels/cpu/vec_constants.h"
#include "kernels/kv_codes.h"

namespace skim {
namespace {

struct VecPlain {
  static constexpr int kLanes = 16;
  static constexpr int kTileRows = 2;  // accumulators of a product tile that stay in registers
  static constexpr int kTileVecs = 1;

  struct F {
    float lane[kLanes];
  };
  struct Pairs {
    Bf16 lane[kLanes][2];
  };
  struct Mask {
    bool lane[kLanes];
  };

  template <typename Function>
  static F Each(Function&& function) {
    F result;
    for (int i = 0; i < kLanes; ++i) result.lane[i] = function(i);
    return result;
  }

  static F Set(float x) {
    return Each([&](int) { return x; });
  }
  static F Load(const float* from) {
    return Each([&](int i) { return from[i]; });
  }
  static F LoadPartial(const float* from, int lanes) {
    return Each([&](int i) { return i < lanes ? from[i] : 0.0f; });
  }
  static void Store(float* to, F a) { std::memcpy(to, a.lane, sizeof a.lane); }
  static void StorePartial(float* to, F a, int lanes) {
    for (int i = 0; i < lanes; ++i) to[i] = a.lane[i];
  }

  static F Add(F a, F b) {
    return Each([&](int i) { return a.lane[i] + b.lane[i]; });
  }
  static F Sub(F a, F b) {
    return Each([&](int i) { return a.lane[i] - b.lane[i]; });
  }
  static F Mul(F a, F b) {
    return Each([&](int i) { return a.lane[i] * b.lane[i]; });
  }
  static F Div(F a, F b) {
    return Each([&](int i) { return a.lane[i] / b.lane[i]; });
  }
  static F Max(F a, F b) {
    return Each([&](int i) { return a.lane[i] > b.lane[i] ? a.lane[i] : b.lane[i]; });
  }
  static F Exp(F a) {
    return Each([&](int i) { return ExpPlain(a.lane[i]); });
  }
  // 2^x for x <= 0 (0 below -150), exactly 1 at 0, to 3e-6: for weights that are rounded to
  // bf16 anyway. 2^n * sum of (f ln 2)^i / i! over i <= 5, n = round(x), f = x - n.
  static F Exp2(F a) {
    return Each([&](int i) {
      const float x = a.lane[i] < kExp2Lowest ? kExp2Lowest : a.lane[i];
      if (x != x) return x;
      constexpr float kRound = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer
      const float n = (x + kRound) - kRound, f = x - n;
      float p = kExp2Terms[5];
      for (int term = 4; term >= 0; --term) p = p * f + kExp2Terms[term];
      const int whole = static_cast<int>(n), half = whole / 2;
      return p * PowerOfTwo(half) * PowerOfTwo(whole - half);
    });
  }
  static float ReduceAdd(F a) {
    for (int step = kLanes / 2; step > 0; step /= 2) {
      for (int i = 0; i < step; ++i) a.lane[i] += a.lane[i + step];
    }
    return a.lane[0];
  }
  static float ReduceMax(F a) {
    float max = a.lane[0];
    for (float x : a.lane) max = max > x ? max : x;
    return max;
  }

  static Mask AtMost(const int32_t* values, int32_t limit) {
    Mask mask;
    for (int i = 0; i < kLanes; ++i) mask.lane[i] = values[i] <= limit;
    return mask;
  }
  static Mask AtLeast(F a, F b) {
    Mask mask;
    for (int i = 0; i < kLanes; ++i) mask.lane[i] = a.lane[i] >= b.lane[i];
    return mask;
  }
  static F Select(Mask mask, F yes, F no) {
    return Each([&](int i) { return mask.lane[i] ? yes.lane[i] : no.lane[i]; });
  }

  // Rounds to nearest even, stores the first `lanes`, returns what the rounded values are.
  static F StoreBf16(Bf16* to, F a, int lanes = kLanes) {
    for (int i = 0; i < lanes; ++i) to[i] = ToBf16(a.lane[i]);
    return Each([&](int i) { return ToFloat(ToBf16(a.lane[i])); });
  }

  static Pairs LoadPairs(const Bf16* from) {
    Pairs pairs;
    std::memcpy(pairs.lane, from, sizeof pairs.lane);
    return pairs;
  }
  static Pairs LoadPairsPartial(const Bf16* from, int lanes) {
    Pairs pairs = {};
    std::memcpy(pairs.lane, from, sizeof pairs.lane[0] * lanes);
    return pairs;
  }
  static void StorePairs(Bf16* to, Pairs a) { std::memcpy(to, a.lane, sizeof a.lane); }
  template <KvFormat kFormat>
  struct Codes {
    void Load(const std::byte* line, Pairs* first, Pairs* second) const {
      for (int i = 0; i < 2 * kLanes; ++i) {
        const int byte = i / 8 * 16 + i % 8;
        first->lane[i / 2][i % 2] = Expand(line[byte]);
        second->lane[i / 2][i % 2] = Expand(line[byte + 8]);
      }
    }

   private:
    static Bf16 Expand(std::byte byte) {
      const auto code = static_cast<unsigned>(byte);
      const unsigned sign = (code & 0x80) << 8;
      return {static_cast<uint16_t>(kCodeTable<kFormat>.bits[code & 0x7f] | sign)};
    }
  };
  static F Dot(F sum, const Bf16* pair, Pairs b) {  // the same pair for every lane
    const float a0 = ToFloat(pair[0]), a1 = ToFloat(pair[1]);
    return Each([&](int i) {
      return sum.lane[i] + a0 * ToFloat(b.lane[i][0]) + a1 * ToFloat(b.lane[i][1]);
    });
  }
};

}  // namespace
}  // namespace skim
