#include "server/text_workers.h"

#include <algorithm>
#include <utility>

namespace skim {

TextWorkers::TextWorkers(int threads, size_t max_waiting_admissions)
    : max_waiting_admissions_(max_waiting_admissions),
      max_running_admissions_(std::max(1, threads - 1)) {
  for (int i = 0; i < std::max(1, threads); ++i) threads_.emplace_back([this] { Work(); });
}

TextWorkers::~TextWorkers() {
  {
    std::lock_guard lock(mutex_);
    ending_ = true;
  }
  wake_.notify_all();
  for (std::thread& thread : threads_) thread.join();
}

bool TextWorkers::TryPostAdmission(std::function<void()> job) {
  {
    std::lock_guard lock(mutex_);
    if (admissions_.size() >= max_waiting_admissions_) return false;
    admissions_.push_back(std::move(job));
  }
  wake_.notify_one();
  return true;
}

void TextWorkers::PostStream(std::function<void()> job) {
  {
    std::lock_guard lock(mutex_);
    streams_.push_back(std::move(job));
  }
  wake_.notify_one();
}

bool TextWorkers::MayAdmit() const {
  return !admissions_.empty() && running_admissions_ < max_running_admissions_;
}

void TextWorkers::Work() {
  std::unique_lock lock(mutex_);
  for (;;) {
    wake_.wait(lock,
               [&] { return !streams_.empty() || MayAdmit() || (ending_ && admissions_.empty()); });
    const bool admission = streams_.empty();
    if (admission && !MayAdmit()) return;
    auto& queue = admission ? admissions_ : streams_;
    std::function<void()> job = std::move(queue.front());
    queue.pop_front();
    if (admission) ++running_admissions_;
    lock.unlock();
    job();
    job = nullptr;  // what it holds is released outside the lock
    lock.lock();
    if (!admission) continue;
    --running_admissions_;
    // This thread may take a stream job next while another one waits for this slot.
    if (!admissions_.empty() || ending_) wake_.notify_all();
  }
}

}  // namespace skim
