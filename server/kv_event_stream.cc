#include "server/kv_event_stream.h"

#include <utility>

#include "server/rpc_status.h"

namespace skim {

KvEventStream* KvEventStream::Start(KvJournal* journal, TextWorkers* workers, uint64_t last_seen) {
  std::shared_ptr<KvEventStream> stream(new KvEventStream(journal, workers, last_seen));
  stream->self_ = stream;
  // First, so that no batch comes unnoticed between the two.
  journal->Add(stream);
  stream->Wake();
  return stream.get();
}

KvEventStream::KvEventStream(KvJournal* journal, TextWorkers* workers, uint64_t last_seen)
    : journal_(journal), task_(workers), cursor_(journal->Open(last_seen)) {}

void KvEventStream::Wake() {
  task_.Wake([self = shared_from_this()] { self->Pump(); });
}

void KvEventStream::OnWriteDone(bool ok) {
  if (!ok) gone_.store(true);
  writing_.store(false);
  Wake();
}

void KvEventStream::OnCancel() {
  gone_.store(true);
  Wake();
}

void KvEventStream::Pump() {
  if (finished_ || writing_.load()) return;
  absl::Status status =
      gone_.load() ? absl::CancelledError("the client has gone") : cursor_.status();
  if (status.ok()) {
    auto batch = journal_->Read(&*cursor_);
    if (batch.ok() && *batch == nullptr) return;  // a batch, or the client's end, wakes us
    if (batch.ok()) {
      written_ = *std::move(batch);
      writing_.store(true);
      StartWrite(written_.get());
      return;
    }
    status = batch.status();
  }
  finished_ = true;
  Finish(ToGrpcStatus(status));
}

}  // namespace skim
