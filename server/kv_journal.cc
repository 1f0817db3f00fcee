#include "server/kv_journal.h"

#include <algorithm>
#include <chrono>
#include <optional>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "base/check.h"

namespace skim {
namespace {

using smg::grpc::common::KvBlocksStored;

// gRPC's default limit on a message is 4 MiB. Parents come first, so what is left out only makes
// chains shorter.
constexpr size_t kMaxSnapshotBytes = 3 << 20;

double UnixSeconds() {
  return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
}

// Numbers of another process's batches are never taken for ours: each begins in a range of its
// own.
uint64_t FirstNumber() { return static_cast<uint64_t>(UnixSeconds()) << 20; }

int64_t Signed(uint64_t hash) { return static_cast<int64_t>(hash); }

// Builds the events of a batch; blocks of a chain go into one.
class BatchBuilder {
 public:
  BatchBuilder(uint64_t number, int32_t page_tokens) : page_tokens_(page_tokens) {
    batch_.set_sequence_number(number);
    batch_.set_timestamp(UnixSeconds());
    batch_.set_dp_rank(0);
  }

  void Clear() { Add()->mutable_cleared(); }

  void Store(const PrefixEvent& block) {
    if (chain_ == nullptr || block.parent != last_) {
      chain_ = Add()->mutable_stored();
      if (block.parent.has_value()) chain_->set_parent_block_hash(Signed(*block.parent));
    }
    auto* out = chain_->add_blocks();
    out->set_block_hash(Signed(block.hash));
    out->mutable_token_ids()->Assign(block.tokens.begin(), block.tokens.end());
    out->set_block_size(page_tokens_);
    last_ = block.hash;
    bytes_ += out->ByteSizeLong();
  }

  void Remove(const PrefixEvent& block) {
    chain_ = nullptr;
    Add()->mutable_removed()->add_block_hashes(Signed(block.hash));
  }

  size_t bytes() const { return bytes_; }
  std::shared_ptr<const KvEventBatch> Take() {
    return std::make_shared<const KvEventBatch>(std::move(batch_));
  }

 private:
  smg::grpc::common::KvCacheEvent* Add() {
    auto* event = batch_.add_events();
    event->set_event_id(static_cast<uint64_t>(batch_.events_size()));
    return event;
  }

  const int32_t page_tokens_;
  KvEventBatch batch_;
  KvBlocksStored* chain_ = nullptr;
  std::optional<uint64_t> last_;
  size_t bytes_ = 0;
};

size_t CountBlocks(const KvEventBatch& batch) {
  size_t blocks = 0;
  for (const auto& event : batch.events()) {
    blocks += static_cast<size_t>(event.has_stored() ? event.stored().blocks_size() : 1);
  }
  return blocks;
}

}  // namespace

KvJournal::KvJournal(size_t max_blocks) : max_blocks_(max_blocks), next_(FirstNumber() + 1) {}

void KvJournal::Begin(WeightFormat format, int32_t page_tokens) {
  format_ = format;
  page_tokens_ = page_tokens;
}

void KvJournal::OnPrefixChange(std::span<const PrefixEvent> events) {
  // Only this thread changes next_.
  BatchBuilder builder(next_, page_tokens_);
  std::vector<const PrefixEvent*> told;
  for (const PrefixEvent& event : events) {
    if (event.domain != CacheDomain{.salt = "", .weight_format = format_}) continue;
    told.push_back(&event);
    if (event.stored) {
      builder.Store(event);
    } else {
      builder.Remove(event);
    }
  }
  if (told.empty()) return;
  std::vector<std::shared_ptr<KvSubscriber>> awake;
  {
    std::lock_guard lock(mutex_);
    for (const PrefixEvent* event : told) Mirror(*event);
    batches_.push_back(builder.Take());
    ++next_;
    blocks_in_batches_ += CountBlocks(*batches_.back());
    while (blocks_in_batches_ > max_blocks_ && batches_.size() > 1) {
      blocks_in_batches_ -= CountBlocks(*batches_.front());
      batches_.pop_front();
    }
    std::erase_if(subscribers_, [&](const auto& weak) {
      auto subscriber = weak.lock();
      if (subscriber == nullptr) return true;
      awake.push_back(std::move(subscriber));
      return false;
    });
  }
  for (const auto& subscriber : awake) subscriber->Wake();
}

void KvJournal::Mirror(const PrefixEvent& event) {
  if (event.stored) {
    place_[event.hash] = arrivals_;
    blocks_[arrivals_++] = std::make_shared<const PrefixEvent>(event);
    return;
  }
  const auto found = place_.find(event.hash);
  SKIM_CHECK(found != place_.end());
  blocks_.erase(found->second);
  place_.erase(found);
}

KvJournal::Batch KvJournal::Snapshot(std::span<const Block> blocks, uint64_t number) const {
  BatchBuilder builder(number, page_tokens_);
  builder.Clear();
  for (const Block& block : blocks) {
    if (builder.bytes() > kMaxSnapshotBytes) break;
    builder.Store(*block);
  }
  return builder.Take();
}

absl::StatusOr<KvJournal::Cursor> KvJournal::Open(uint64_t last_seen) const {
  std::vector<Block> blocks;
  uint64_t next = 0;
  {
    std::lock_guard lock(mutex_);
    if (last_seen != 0) {
      if (last_seen >= next_ || last_seen + 1 < oldest()) {
        return absl::OutOfRangeError("start_sequence_number: batches are there from " +
                                     std::to_string(oldest()) + " to " + std::to_string(next_ - 1) +
                                     "; begin with 0");
      }
      return Cursor{.next = std::max(last_seen, oldest()), .first = nullptr};
    }
    next = next_;
    for (const auto& [arrival, block] : blocks_) blocks.push_back(block);
  }
  return Cursor{.next = next, .first = Snapshot(blocks, next - 1)};
}

absl::StatusOr<KvJournal::Batch> KvJournal::Read(Cursor* cursor) const {
  if (cursor->first != nullptr) return std::exchange(cursor->first, nullptr);
  std::lock_guard lock(mutex_);
  if (cursor->next < oldest()) {
    return absl::OutOfRangeError("fell behind the events that are kept; begin with 0");
  }
  if (cursor->next == next_) return Batch();
  return batches_[cursor->next++ - oldest()];
}

void KvJournal::Add(std::weak_ptr<KvSubscriber> subscriber) {
  std::lock_guard lock(mutex_);
  subscribers_.push_back(std::move(subscriber));
}

}  // namespace skim
