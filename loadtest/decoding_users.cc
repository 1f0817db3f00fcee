#include "loadtest/decoding_users.h"

#include <algorithm>
#include <chrono>
#include <utility>

#include "base/status_macros.h"

namespace skim {
namespace {

constexpr int64_t kPromptTokens = 64;
constexpr int64_t kWatchedTokens = 5;

}  // namespace

absl::StatusOr<std::unique_ptr<DecodingUsers>> DecodingUsers::Start(BenchClient* client,
                                                                    int64_t users,
                                                                    v1::WeightFormat weights) {
  std::unique_ptr<DecodingUsers> started(new DecodingUsers(users));
  DecodingUsers* self = started.get();
  const BenchWork work = {.streams = users,
                          .prompt_tokens = kPromptTokens,
                          .output_tokens = client->model().max_context() - kPromptTokens,
                          .weights = weights,
                          .stays = [self](size_t tokens) { return self->OnMessage(tokens); }};
  started->thread_ = std::thread([self, client, work] {
    auto records = client->Run(work);
    std::lock_guard lock(self->mutex_);
    self->records_ = std::move(records);
    self->changed_.notify_all();
  });
  std::unique_lock lock(started->mutex_);
  started->changed_.wait(lock,
                         [self] { return self->decoding_ == self->users_ || self->records_; });
  if (started->records_ && !started->records_->ok()) return started->records_->status();
  return started;
}

DecodingUsers::~DecodingUsers() { End(); }

bool DecodingUsers::OnMessage(size_t tokens) {
  std::lock_guard lock(mutex_);
  ++messages_;
  if (tokens == 1) ++decoding_;
  changed_.notify_all();
  return !going_;
}

void DecodingUsers::Watch(Micros at_least) {
  std::this_thread::sleep_for(std::chrono::microseconds(at_least));
  std::unique_lock lock(mutex_);
  // They take turns, so all together tells enough of each.
  const int64_t enough = messages_ + kWatchedTokens * users_;
  changed_.wait(lock, [&] { return messages_ >= enough || records_; });
}

void DecodingUsers::End() {
  {
    std::lock_guard lock(mutex_);
    going_ = true;
  }
  if (thread_.joinable()) thread_.join();
}

absl::StatusOr<std::vector<StreamRecord>> DecodingUsers::Stop() {
  End();
  SKIM_ASSIGN_OR_RETURN(auto records, *std::move(records_));
  const auto ended = [](const StreamRecord& record) { return record.Finished(); };
  if (std::ranges::any_of(records, ended)) {
    return absl::InternalError("a user's context was full before the others' prompt was computed");
  }
  return records;
}

}  // namespace skim
