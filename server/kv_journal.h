// The prefix cache as gateways see it: a numbered list of what has been stored and removed, of
// bounded length, and what is there now. A gateway starts with the latter and follows with the
// former; one that falls behind the list has to start again.
//
// Only blocks that a call without a cache salt can hit are told of, in one weight format: that of
// the calls that the gateway sends.
#pragma once

#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <span>
#include <unordered_map>
#include <vector>

#include "absl/status/statusor.h"
#include "scheduler/prefix_events.h"
#include "smg/grpc/common/common.pb.h"

namespace skim {

using KvEventBatch = smg::grpc::common::KvEventBatch;

class KvSubscriber {
 public:
  virtual ~KvSubscriber() = default;
  // There is something to read. Any thread; must not block.
  virtual void Wake() = 0;
};

class KvJournal final : public PrefixListener {
 public:
  // The list keeps batches of at most so many blocks together, or one batch if that is larger.
  explicit KvJournal(size_t max_blocks = 1 << 16);

  // Before the first event.
  void Begin(WeightFormat format, int32_t page_tokens);

  // --- serving loop ---
  void OnPrefixChange(std::span<const PrefixEvent> events) override;

  // --- any thread ---
  using Batch = std::shared_ptr<const KvEventBatch>;
  // Where a subscriber is.
  struct Cursor {
    uint64_t next = 0;  // the batch that it reads next
    Batch first;        // to be read before
  };
  // `last_seen` 0: begins with one batch that clears and then stores all there is. Else goes on
  // from that batch, which may come a second time; OUT_OF_RANGE if what follows it is not in the
  // list any more, or if it was another process's.
  absl::StatusOr<Cursor> Open(uint64_t last_seen) const;
  // Null: nothing yet. OUT_OF_RANGE: the list has lost what comes next.
  absl::StatusOr<Batch> Read(Cursor* cursor) const;

  // Forgets it once it is gone.
  void Add(std::weak_ptr<KvSubscriber> subscriber);

 private:
  using Block = std::shared_ptr<const PrefixEvent>;

  void Mirror(const PrefixEvent& event);  // with the lock held
  Batch Snapshot(std::span<const Block> blocks, uint64_t number) const;
  uint64_t oldest() const { return next_ - batches_.size(); }

  const size_t max_blocks_;
  WeightFormat format_ = WeightFormat::kBf16;
  int32_t page_tokens_ = 0;

  mutable std::mutex mutex_;
  uint64_t next_;  // number of the next batch
  std::deque<Batch> batches_;
  size_t blocks_in_batches_ = 0;
  // What is there, in the order of its coming: parents before children.
  std::map<uint64_t, Block> blocks_;
  std::unordered_map<uint64_t, uint64_t> place_;  // hash -> key of blocks_
  uint64_t arrivals_ = 0;
  std::vector<std::weak_ptr<KvSubscriber>> subscribers_;
};

}  // namespace skim
