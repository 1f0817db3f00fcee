// The threads that do text work, so that neither gRPC's threads nor the serving loop ever
// tokenise. Two kinds of job: `admission` (validate and tokenise a new call; may take long)
// and `stream` (turn drained tokens into messages; short). Stream jobs go first, and with
// two or more threads one is always free of admissions, so that a huge prompt never delays
// the streams that are running.
#pragma once

#include <condition_variable>
#include <cstddef>
#include <deque>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace skim {

class TextWorkers {
 public:
  TextWorkers(int threads, size_t max_waiting_admissions);
  // Runs what is still queued, then ends the threads.
  ~TextWorkers();
  TextWorkers(const TextWorkers&) = delete;
  TextWorkers& operator=(const TextWorkers&) = delete;

  // Any thread, never blocks. False: too many admissions wait, the job was dropped.
  bool TryPostAdmission(std::function<void()> job);
  // Any thread, never blocks. Callers keep at most one job per stream queued, so the queue
  // is bounded by the streams that were admitted.
  void PostStream(std::function<void()> job);

 private:
  void Work();
  bool MayAdmit() const;  // holds mutex_

  const size_t max_waiting_admissions_;
  const int max_running_admissions_;
  std::mutex mutex_;
  std::condition_variable wake_;
  std::deque<std::function<void()>> admissions_;
  std::deque<std::function<void()>> streams_;
  int running_admissions_ = 0;
  bool ending_ = false;
  std::vector<std::thread> threads_;
};

}  // namespace skim
