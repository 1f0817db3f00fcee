#include "loadtest/load_runner.h"

#include <algorithm>
#include <chrono>
#include <random>
#include <utility>

#include "loadtest/load_stream.h"

namespace skim {
namespace {

constexpr Micros kTick = 200'000;  // between two progress reports
constexpr int kSlowWindowBytes = 64;

double Seconds(Micros time) { return static_cast<double>(time) * 1e-6; }

}  // namespace

grpc::ChannelArguments SlowReaderChannel() {
  grpc::ChannelArguments arguments;
  arguments.SetInt(GRPC_ARG_HTTP2_STREAM_LOOKAHEAD_BYTES, kSlowWindowBytes);
  arguments.SetInt(GRPC_ARG_HTTP2_BDP_PROBE, 0);
  // Channels with equal settings may share one connection; this one must not.
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  return arguments;
}

bool IsFailure(const StreamRecord& record) {
  if (!record.faults.empty()) return true;
  return record.behaviour == Behaviour::kNormal && record.code != grpc::StatusCode::OK;
}

LoadRunner::LoadRunner(const Connection* connection, const Connection* slow, const Clock* clock)
    : connection_(connection), slow_(slow), clock_(clock) {}

void LoadRunner::Start(PlannedRequest planned, Micros due) {
  {
    std::lock_guard lock(mutex_);
    ++started_;
  }
  const Connection& connection =
      planned.behaviour == Behaviour::kSlowReader ? *slow_ : *connection_;
  LoadStream::Start(connection, *clock_, std::move(planned), due, [this](StreamRecord record) {
    // Notify under the lock: the runner may be gone as soon as it sees the last record.
    std::lock_guard lock(mutex_);
    failed_ += IsFailure(record);
    records_.push_back(std::move(record));
    changed_.notify_all();
  });
}

LoadProgress LoadRunner::Progress(const LoadOptions& options, Micros begin) const {
  std::lock_guard lock(mutex_);
  LoadProgress progress;
  progress.started = started_;
  progress.ended = static_cast<int64_t>(records_.size());
  progress.failed = failed_;
  if (options.requests > 0) {
    progress.share = static_cast<double>(progress.ended) / static_cast<double>(options.requests);
  }
  if (options.duration_s > 0) {
    progress.share = std::max(progress.share, Seconds(clock_->Now() - begin) / options.duration_s);
  }
  progress.share = std::min(progress.share, 1.0);
  return progress;
}

std::vector<StreamRecord> LoadRunner::Run(
    const LoadOptions& options, const std::function<PlannedRequest()>& next,
    const std::atomic<bool>& stop, const std::function<void(const LoadProgress&)>& progress) {
  std::mt19937_64 random(options.seed);
  std::exponential_distribution<double> gap_s(options.rate_per_s > 0 ? options.rate_per_s : 1);
  const Micros begin = clock_->Now();
  const Micros end =
      options.duration_s > 0 ? begin + static_cast<Micros>(options.duration_s * 1e6) : kNever;
  Micros due = begin;
  Micros last_report = begin;
  {
    std::lock_guard lock(mutex_);
    started_ = failed_ = 0;
    records_.clear();
  }

  const auto more = [&] {
    // Only an open loop has due times, and may be behind them.
    const Micros now = clock_->Now();
    const Micros start = options.rate_per_s > 0 ? std::min(due, now) : now;
    return !stop && (options.requests == 0 || started_ < options.requests) && start < end;
  };
  std::unique_lock lock(mutex_);
  while (more() || static_cast<int64_t>(records_.size()) < started_) {
    const auto in_flight = started_ - static_cast<int64_t>(records_.size());
    const bool open_loop = options.rate_per_s > 0;
    const Micros now = clock_->Now();
    const bool start = more() && (open_loop ? due <= now : in_flight < options.concurrency);
    if (start) {
      lock.unlock();
      Start(next(), open_loop ? due : now);
      if (open_loop) due += static_cast<Micros>(gap_s(random) * 1e6);
      lock.lock();
    } else {
      const Micros wait = open_loop && more() ? std::min(kTick, due - now) : kTick;
      changed_.wait_for(lock, std::chrono::microseconds(wait));
    }
    if (clock_->Now() - last_report >= kTick) {
      last_report = clock_->Now();
      lock.unlock();
      progress(Progress(options, begin));
      lock.lock();
    }
  }
  lock.unlock();
  progress(Progress(options, begin));
  lock.lock();
  return std::move(records_);
}

}  // namespace skim
