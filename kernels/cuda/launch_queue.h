// The kernels that go to a stream: one by one as they are launched, or held back and then launched
// together. Of launches that are held back a list is kept, and one that comes again, the same to
// the last byte of an argument, becomes a CUDA graph, which takes one call to launch however many
// kernels it has. So a graph does what the launches would have done and nothing else; what a kernel
// is to do differently from step to step is in the memory that its arguments point to.
//
// Errors are CUDA's codes, 0 is none. One thread at a time.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <list>
#include <type_traits>
#include <vector>

struct CUgraphExec_st;
struct CUstream_st;
struct dim3;

namespace skim::cuda {

class LaunchQueue {
 public:
  // Lists that are known at one time, those with a graph among them. A graph takes memory of the
  // driver's own.
  static constexpr size_t kMostLists = 64;

  LaunchQueue() = default;
  ~LaunchQueue() { Clear(); }
  LaunchQueue(const LaunchQueue&) = delete;
  LaunchQueue& operator=(const LaunchQueue&) = delete;

  // Borrowed. Before the first launch.
  void SetStream(CUstream_st* stream) { stream_ = stream; }

  // kernel<<<grid, threads, shared>>>(args...). What is launched at once tells of its failure by
  // cudaGetLastError, what is held back by Launch().
  template <typename... Args>
  void Add(void (*kernel)(Args...), const dim3& grid, int threads, size_t shared,
           const std::type_identity_t<Args>&... args) {
    Begin(reinterpret_cast<const void*>(kernel), grid, threads, shared);
    (Put(args), ...);
    End();
  }

  // Launches are held back until the next EndStep(). No other work may go to the stream before
  // Launch() that they are to come before.
  void Hold() { holding_ = true; }
  bool holding() const { return holding_; }
  // Behind Launch(): launches are held back no more until the next step.
  void Release() { holding_ = false; }
  // What those that are held back and have no name are called in an error.
  void Name(const char* what) { held_.names.resize(held_.launches.size(), what); }
  // Launches all that is held back. If not 0, `what` failed, and nothing behind it was launched.
  int Launch(const char** what);
  // Forgets what is held back.
  void Drop() { held_.Clear(); }
  // Once the device is done with all that was launched: nothing is held back any more, and graphs
  // that have not been launched for long are given up.
  void EndStep();

  // Gives up all graphs; otherwise as EndStep().
  void Clear();

  int64_t graph_launches() const { return graph_launches_; }

 private:
  struct Kernel {
    const void* function;
    std::array<unsigned, 3> grid;
    int threads;
    size_t shared;
    size_t first_argument;  // of List::arguments
    bool operator==(const Kernel&) const = default;
  };
  struct List {
    std::vector<Kernel> launches;
    std::vector<size_t> arguments;  // where in `bytes` each begins
    std::vector<std::byte> bytes;   // every argument aligned to kAlign; padding is zeros
    std::vector<const char*> names;

    void Clear() {
      launches.clear();
      arguments.clear();
      bytes.clear();
      names.clear();
    }
    bool SameLaunches(const List& other) const {
      return launches == other.launches && arguments == other.arguments && bytes == other.bytes;
    }
  };
  struct Known {
    List list;
    CUgraphExec_st* graph = nullptr;
    bool given_up = false;  // no graph could be made of it
  };
  static constexpr size_t kAlign = 16;

  void Begin(const void* function, const dim3& grid, int threads, size_t shared);
  void End();
  template <typename T>
  void Put(const T& argument) {
    static_assert(std::is_trivially_copyable_v<T> && alignof(T) <= kAlign);
    const size_t at = held_.bytes.size();
    held_.arguments.push_back(at);
    held_.bytes.resize(at + (sizeof(T) + kAlign - 1) / kAlign * kAlign);
    auto* place = reinterpret_cast<T*>(held_.bytes.data() + at);
    std::memcpy(place, &argument, sizeof(T));
    __builtin_clear_padding(place);  // or what is the same would differ there
  }

  // One after the other.
  int LaunchKernels(List& list, const char** what);
  CUgraphExec_st* MakeGraph(List& list);
  // All but the `most` that were launched last.
  void Forget(size_t most);

  CUstream_st* stream_ = nullptr;
  bool holding_ = false;
  List held_;
  std::vector<void*> pointers_;  // scratch of LaunchKernels
  std::list<Known> known_;       // what was launched last comes first
  int64_t graph_launches_ = 0;
};

}  // namespace skim::cuda
