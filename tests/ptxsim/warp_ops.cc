// What the lanes of a warp do together: shfl, vote, match, redux, bar.warp.sync.
#include <algorithm>

#include "tests/ptxsim/fault.h"
#include "tests/ptxsim/modifiers.h"
#include "tests/ptxsim/values.h"

namespace ptxsim {
namespace {

template <typename F>
void ForLanes(Warp& warp, uint32_t mask, F f) {
  for (int lane = 0; lane < warp.lane_count; ++lane) {
    if (mask >> lane & 1) f(lane, warp.lane(lane));
  }
}

enum Shuffle : uint8_t { kUp, kDown, kButterfly, kIndex };

// shfl.sync.<mode>.b32 d|p, a, b, c, mask. c holds the segment mask and the clamp.
void RunShuffle(const Instruction& i, Warp& warp, uint32_t mask) {
  uint32_t values[32] = {};
  ForLanes(warp, mask,
           [&](int lane, Thread& t) { values[lane] = Get<uint32_t>(t, i.operands[1]); });
  ForLanes(warp, mask, [&](int lane, Thread& t) {
    const int b = Get<uint32_t>(t, i.operands[2]) & 31;
    const uint32_t c = Get<uint32_t>(t, i.operands[3]);
    const int clamp = c & 31, segment = c >> 8 & 31;
    const int limit = (lane & segment) | (clamp & ~segment), low = lane & segment;
    int from = lane;
    bool inside = false;
    switch (i.mode) {
      case kUp:
        from = lane - b;
        inside = from >= limit;
        break;
      case kDown:
        from = lane + b;
        inside = from <= limit;
        break;
      case kButterfly:
        from = lane ^ b;
        inside = from <= limit;
        break;
      case kIndex:
        from = low | (b & ~segment);
        inside = from <= limit;
        break;
    }
    if (!inside) from = lane;
    if ((mask >> from & 1) == 0) {
      Fault("lane " + std::to_string(lane) + " shuffles from lane " + std::to_string(from) +
            ", which the mask leaves out");
    }
    t[i.operands[0].reg[0]] = values[from];
    if (i.operands[0].count == 2) t[i.operands[0].reg[1]] = inside;
  });
}

enum Vote : uint8_t { kAll, kAny, kUni, kBallot };

void RunVote(const Instruction& i, Warp& warp, uint32_t mask) {
  uint32_t ballot = 0;
  ForLanes(warp, mask, [&](int lane, Thread& t) {
    ballot |= uint32_t{GetPredicate(t, i.operands[1])} << lane;
  });
  uint32_t result = ballot;
  if (i.mode == kAll) result = ballot == mask;
  if (i.mode == kAny) result = ballot != 0;
  if (i.mode == kUni) result = ballot == 0 || ballot == mask;
  ForLanes(warp, mask, [&](int, Thread& t) { t[i.operands[0].reg[0]] = result; });
}

void RunMatch(const Instruction& i, Warp& warp, uint32_t mask) {
  ForLanes(warp, mask, [&](int, Thread& t) {
    uint32_t same = 0;
    ForLanes(warp, mask, [&](int other, Thread& o) {
      same |= uint32_t{o[i.operands[1].reg[0]] == t[i.operands[1].reg[0]]} << other;
    });
    t[i.operands[0].reg[0]] = same;
  });
}

template <typename T>
T Reduced(uint8_t mode, T a, T b) {
  switch (mode) {
    case 0:
      return static_cast<T>(a + b);
    case 1:
      return std::min(a, b);
    case 2:
      return std::max(a, b);
    case 3:
      return a & b;
    case 4:
      return a | b;
    default:
      return a ^ b;
  }
}

void RunReduce(const Instruction& i, Warp& warp, uint32_t mask) {
  ForInteger(i.type, [&](auto zero) {
    using T = decltype(zero);
    bool first = true;
    T total = 0;
    ForLanes(warp, mask, [&](int, Thread& t) {
      const T value = Get<T>(t, i.operands[1]);
      total = first ? value : Reduced<T>(i.mode, total, value);
      first = false;
    });
    ForLanes(warp, mask, [&](int, Thread& t) { Put<T>(t, i.operands[0], total); });
  });
}

void RunSyncWarp(const Instruction&, Warp& warp, uint32_t mask) { warp.syncs.push_back(mask); }

}  // namespace

bool DecodeWarp(Modifiers& m, Instruction& i) {
  const std::string& base = m.base();
  if (base == "bar") {
    i.run_warp = RunSyncWarp;
    i.mask_operand = 0;
    return m.TakeNext("warp") && m.TakeNext("sync") && i.operands.size() == 1;
  }
  if ((base != "shfl" && base != "vote" && base != "match" && base != "redux") ||
      !m.TakeNext("sync")) {
    return false;
  }
  i.mask_operand = static_cast<int>(i.operands.size()) - 1;
  int mode = 0;
  if (base == "shfl") {
    mode = m.TakeOneOf({"up", "down", "bfly", "idx"});
    i.run_warp = RunShuffle;
  } else if (base == "vote") {
    mode = m.TakeOneOf({"all", "any", "uni", "ballot"});
    i.run_warp = RunVote;
  } else if (base == "match") {
    mode = m.TakeOneOf({"any"});
    i.run_warp = RunMatch;
  } else {
    mode = m.TakeOneOf({"add", "min", "max", "and", "or", "xor"});
    i.run_warp = RunReduce;
  }
  i.mode = static_cast<uint8_t>(mode);
  i.type = m.TakeType();
  return mode >= 0 && i.type != Type::kNone && i.operands.size() >= 3;
}

}  // namespace ptxsim
