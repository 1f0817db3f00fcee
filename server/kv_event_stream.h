// SubscribeKvEvents: a gateway's cursor in a KvJournal, read on the text workers and written one
// batch at a time.
#pragma once

#include <atomic>
#include <memory>

#include "grpcpp/support/server_callback.h"
#include "server/kv_journal.h"
#include "server/serial_task.h"
#include "server/text_workers.h"

namespace skim {

class KvEventStream final : public grpc::ServerWriteReactor<KvEventBatch>,
                            public KvSubscriber,
                            public std::enable_shared_from_this<KvEventStream> {
 public:
  // Borrows both. Lives until its call is done and nobody uses it.
  static KvEventStream* Start(KvJournal* journal, TextWorkers* workers, uint64_t last_seen);

  void Wake() override;

  // --- gRPC's threads ---
  void OnWriteDone(bool ok) override;
  void OnCancel() override;
  void OnDone() override { self_.reset(); }

 private:
  KvEventStream(KvJournal* journal, TextWorkers* workers, uint64_t last_seen);
  void Pump();

  KvJournal* const journal_;
  SerialTask task_;
  std::shared_ptr<KvEventStream> self_;  // until OnDone

  // Pump's own.
  absl::StatusOr<KvJournal::Cursor> cursor_;
  KvJournal::Batch written_;  // lives while it is
  bool finished_ = false;

  std::atomic<bool> writing_{false};
  std::atomic<bool> gone_{false};
};

}  // namespace skim
