// Stream capture and what comes of it: work that is kept to be enqueued again and again.
#pragma once

#include <functional>
#include <thread>
#include <vector>

namespace ptxsim {

// What a stream was given since cudaStreamBeginCapture; nothing of it has run.
struct Capture {
  bool relaxed = false;     // calls that are unsafe beside it are allowed
  bool all_threads = true;  // else only this one's are not
  std::thread::id thread;   // that began it
  bool valid = true;
  std::vector<std::function<void()>> nodes;
};

// One stream was captured, so its nodes run in order.
struct Graph {
  std::vector<std::function<void()>> nodes;
};
struct ExecutableGraph {
  std::vector<std::function<void()>> nodes;
  int pending = 0;  // launches that have not run
};

// The first is for calls that would wait for the device or may, like an allocation: a capture that
// they are unsafe beside becomes invalid, and they are refused. The second for those that wait for
// all streams. 0, or the CUDA error code.
int RefuseBesideCapture();
int RefuseWhileAnyCaptures();

}  // namespace ptxsim
