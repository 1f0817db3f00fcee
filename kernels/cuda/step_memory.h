// Memory of one kind for what lives until the end of a step, taken in large chunks and given out in
// small pieces. A step that needed several is followed by those that have one of that size.
#pragma once

#include <algorithm>
#include <cstddef>
#include <functional>
#include <utility>
#include <vector>

namespace skim::cuda {

class StepMemory {
 public:
  using Get = std::function<void*(size_t bytes)>;  // null: there is none
  using Give = std::function<void(void*)>;

  // Chunks have at least `chunk_bytes`.
  StepMemory(size_t chunk_bytes, Get get, Give give)
      : chunk_bytes_(chunk_bytes), get_(std::move(get)), give_(std::move(give)) {}

  // What pieces take: of one chunk, they follow one another at such distances.
  static constexpr size_t Rounded(size_t bytes) { return (bytes + kAlign - 1) / kAlign * kAlign; }

  // Null if there is no memory.
  std::byte* Take(size_t bytes) {
    if (chunks_.empty() || used_ + Rounded(bytes) > chunks_.back().bytes) {
      const size_t wanted = std::max(Rounded(bytes), chunk_bytes_);
      void* const data = get_(wanted);
      if (data == nullptr) return nullptr;
      chunks_.push_back({static_cast<std::byte*>(data), wanted});
      used_ = 0;
    }
    return chunks_.back().data + std::exchange(used_, used_ + Rounded(bytes));
  }

  // Nobody uses any piece any more.
  void EndStep() {
    used_ = 0;
    if (chunks_.size() <= 1) return;
    chunk_bytes_ = 0;
    for (const Chunk& chunk : chunks_) chunk_bytes_ += chunk.bytes;
    Clear();
  }
  // To be called at the end: what it has, it gives back.
  void Clear() {
    for (; !chunks_.empty(); chunks_.pop_back()) give_(chunks_.back().data);
  }

 private:
  static constexpr size_t kAlign = 64;
  struct Chunk {
    std::byte* data;
    size_t bytes;
  };

  size_t chunk_bytes_;
  const Get get_;
  const Give give_;
  std::vector<Chunk> chunks_;  // the last one is being filled
  size_t used_ = 0;            // bytes of it
};

}  // namespace skim::cuda
