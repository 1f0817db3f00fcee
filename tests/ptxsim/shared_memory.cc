#include "tests/ptxsim/shared_memory.h"

#include <algorithm>
#include <cstring>
#include <string>

#include "tests/ptxsim/fault.h"
#include "tests/ptxsim/memory_map.h"

namespace ptxsim {
namespace {

constexpr int kWarp = 32;

std::string Name(int thread) { return "thread " + std::to_string(thread); }

// Whether a __syncwarp after `stamp` covered all of `lanes` and the accessor.
bool Synchronised(const Accessor& who, uint32_t lanes, uint16_t stamp) {
  const uint32_t both = lanes | 1u << who.thread % kWarp;
  return std::any_of(who.warp_syncs->begin() + stamp, who.warp_syncs->end(),
                     [&](uint32_t mask) { return (mask & both) == both; });
}

[[noreturn]] void Race(const char* kind, int at, int thread, const std::string& other) {
  Fault("shared-memory race: " + Name(thread) + " " + kind + " byte " + std::to_string(at) +
        " that " + other + " in the same barrier interval");
}

}  // namespace

int SharedMemory::Check(uint64_t address, int bytes, int align, const char* what) const {
  if (address % align != 0) Fault(std::string(what) + ": misaligned shared address");
  if (address < kSharedBegin || address - kSharedBegin + bytes > data_.size()) {
    Fault(std::string(what) + ": out of bounds of shared memory, " + std::to_string(bytes) +
          " bytes at offset " + std::to_string(static_cast<int64_t>(address - kSharedBegin)) +
          " of " + std::to_string(data_.size()));
  }
  return static_cast<int>(address - kSharedBegin);
}

SharedMemory::Shadow& SharedMemory::At(int at) {
  Shadow& shadow = shadow_[at];
  if (shadow.interval != interval_) {
    shadow.interval = interval_;
    shadow.writer = shadow.reader_warp = -1;
    shadow.many_warps = false;
    shadow.reader_lanes = 0;
  }
  return shadow;
}

const uint8_t* SharedMemory::Read(const Accessor& who, uint64_t address, int bytes, int align) {
  const int first = Check(address, bytes, align, "load");
  const int16_t warp = static_cast<int16_t>(who.thread / kWarp);
  for (int at = first; at < first + bytes; ++at) {
    Shadow& shadow = At(at);
    if (shadow.pending) {
      Fault(Name(who.thread) + " reads shared byte " + std::to_string(at) +
            " that a cp.async has not been waited for");
    }
    if (!shadow.written) {
      Fault(Name(who.thread) + " reads uninitialised shared byte " + std::to_string(at));
    }
    if (shadow.writer >= 0 && shadow.writer != who.thread &&
        (shadow.writer / kWarp != warp ||
         !Synchronised(who, 1u << shadow.writer % kWarp, shadow.writer_stamp))) {
      Race("reads", at, who.thread, Name(shadow.writer) + " wrote");
    }
    if (shadow.reader_warp != warp) {
      shadow.many_warps |= shadow.reader_warp >= 0;
      shadow.reader_warp = warp;
      shadow.reader_lanes = 0;
    }
    shadow.reader_lanes |= 1u << who.thread % kWarp;
    shadow.reader_stamp = static_cast<uint16_t>(who.warp_syncs->size());
  }
  return data_.data() + first;
}

void SharedMemory::CheckWrite(const Accessor& who, int first, int bytes, bool atomic) {
  const int warp = who.thread / kWarp;
  for (int at = first; at < first + bytes; ++at) {
    Shadow& shadow = At(at);
    if (shadow.pending) {
      Fault(Name(who.thread) + " writes shared byte " + std::to_string(at) +
            " that a cp.async is still filling");
    }
    if (shadow.writer >= 0 && shadow.writer != who.thread && !(atomic && shadow.atomic) &&
        (shadow.writer / kWarp != warp ||
         !Synchronised(who, 1u << shadow.writer % kWarp, shadow.writer_stamp))) {
      Race("writes", at, who.thread, Name(shadow.writer) + " wrote");
    }
    const uint32_t others = shadow.reader_warp == warp
                                ? shadow.reader_lanes & ~(1u << who.thread % kWarp)
                                : shadow.reader_lanes;
    if (shadow.many_warps || (others != 0 && shadow.reader_warp != warp) ||
        (others != 0 && !Synchronised(who, others, shadow.reader_stamp))) {
      Race("writes", at, who.thread, "another thread read");
    }
    shadow.writer = static_cast<int16_t>(who.thread);
    shadow.writer_stamp = static_cast<uint16_t>(who.warp_syncs->size());
    shadow.atomic = atomic;
    shadow.reader_warp = -1;
    shadow.reader_lanes = 0;
  }
}

uint8_t* SharedMemory::Write(const Accessor& who, uint64_t address, int bytes, int align,
                             bool atomic) {
  const int first = Check(address, bytes, align, "store");
  CheckWrite(who, first, bytes, atomic);
  for (int at = first; at < first + bytes; ++at) {
    // An atomic reads, too.
    if (atomic && !shadow_[at].written) {
      Fault(Name(who.thread) + " updates uninitialised shared byte " + std::to_string(at));
    }
    shadow_[at].written = true;
  }
  return data_.data() + first;
}

void SharedMemory::BeginAsync(const Accessor& who, uint64_t address, int bytes) {
  const int first = Check(address, bytes, bytes, "cp.async");
  CheckWrite(who, first, bytes, false);
  for (int at = first; at < first + bytes; ++at) shadow_[at].pending = true;
}

void SharedMemory::EndAsync(const Accessor& who, uint64_t address, const uint8_t* from, int bytes) {
  const int first = static_cast<int>(address - kSharedBegin);
  for (int at = first; at < first + bytes; ++at) {
    Shadow& shadow = At(at);
    shadow.pending = false;
    shadow.written = true;
    shadow.writer = static_cast<int16_t>(who.thread);
    shadow.writer_stamp = static_cast<uint16_t>(who.warp_syncs->size());
    shadow.atomic = false;
  }
  std::memcpy(data_.data() + first, from, bytes);
}

}  // namespace ptxsim
