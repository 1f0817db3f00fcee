// Shared memory of one block, with a shadow of every byte: whether it was ever written, who
// wrote it last and who has read it since the last barrier.
//
// Two accesses to a byte by different threads, one of them a write, are a race unless a block
// barrier or a __syncwarp of both threads lies between them. Atomics do not race with atomics.
// What cp.async brings is visible to nobody until the issuing thread has waited for it, and
// to other threads after a barrier that follows.
#pragma once

#include <cstdint>
#include <vector>

namespace ptxsim {

// Who accesses, and when in the order of its warp's synchronisations.
struct Accessor {
  int thread;                               // linear index in the block
  const std::vector<uint32_t>* warp_syncs;  // lane masks since the last block barrier
};

class SharedMemory {
 public:
  explicit SharedMemory(int bytes) : data_(bytes, 0xff), shadow_(bytes) {}

  int bytes() const { return static_cast<int>(data_.size()); }
  // `address` is in the shared space. Faults on what the header describes.
  const uint8_t* Read(const Accessor& who, uint64_t address, int bytes, int align);
  uint8_t* Write(const Accessor& who, uint64_t address, int bytes, int align, bool atomic = false);
  void BeginAsync(const Accessor& who, uint64_t address, int bytes);
  void EndAsync(const Accessor& who, uint64_t address, const uint8_t* from, int bytes);
  void Barrier() { ++interval_; }

 private:
  struct Shadow {
    bool written = false;     // ever
    bool pending = false;     // a cp.async is on its way
    bool atomic = false;      // the last write was
    bool many_warps = false;  // readers are of several warps
    int16_t writer = -1;      // within the interval
    int16_t reader_warp = -1;
    uint16_t writer_stamp = 0, reader_stamp = 0;  // warp synchronisations seen by then
    uint32_t reader_lanes = 0;
    uint32_t interval = 0;  // that writer and readers belong to
  };

  int Check(uint64_t address, int bytes, int align, const char* what) const;
  void CheckWrite(const Accessor& who, int at, int bytes, bool atomic);
  Shadow& At(int at);

  std::vector<uint8_t> data_;
  std::vector<Shadow> shadow_;
  uint32_t interval_ = 0;
};

}  // namespace ptxsim
