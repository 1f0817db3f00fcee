#include "tests/ptxsim/streams.h"

#include <algorithm>

#include "tests/ptxsim/fault.h"

namespace ptxsim {

Stream* Streams::Create(bool waits_for_default) {
  created_.push_back(std::make_unique<Stream>());
  created_.back()->waits_for_default = waits_for_default;
  live_.push_back(created_.back().get());
  return created_.back().get();
}

void Streams::Destroy(Stream* stream) {
  if (stream == &default_) Fault("the default stream cannot be destroyed");
  if (stream->capture != nullptr) Fault("a stream is destroyed while it captures");
  Drain(*stream);
  live_.erase(std::remove(live_.begin(), live_.end(), stream), live_.end());
  created_.erase(std::remove_if(created_.begin(), created_.end(),
                                [&](const auto& owned) { return owned.get() == stream; }),
                 created_.end());
}

Stream& Streams::Get(void* handle) {
  if (handle == nullptr) return default_;
  const auto found = std::find(live_.begin(), live_.end(), static_cast<Stream*>(handle));
  if (found == live_.end()) Fault("a stream that does not exist");
  return **found;
}

void Streams::RunUntil(const std::function<bool()>& done) {
  while (!done()) {
    std::vector<Stream*> able;
    for (Stream* stream : live_) {
      if (stream->queue.empty()) continue;
      const Stream::Work& head = stream->queue.front();
      if (!head.ready || head.ready()) able.push_back(stream);
    }
    if (able.empty()) Fault("the streams wait for each other, or for an event nobody records");
    Stream& next = *able[random_() % able.size()];
    const Stream::Work work = std::move(next.queue.front());
    next.queue.pop_front();
    if (work.run) work.run();
  }
}

bool Streams::Idle() const {
  return std::all_of(live_.begin(), live_.end(), [](Stream* s) { return s->queue.empty(); });
}

void Streams::DrainAll() {
  RunUntil([this] { return Idle(); });
}

}  // namespace ptxsim
