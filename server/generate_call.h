// One call that generates, whatever protocol it came by: that has a GenerateSink. The serving
// loop and the transport only wake it; everything else runs on the text workers, so no
// callback ever blocks.
//
// Life: Start -> Admit (admission job: validate, tokenise, submit) -> Pump, woken by tokens,
// by finished writes and by the end of the client (serial task: drain channels, send one
// message at a time) -> the sink's Finish or last Send -> Done. While a message is in flight no
// channel is drained, so a slow reader fills its channels, not our memory.
//
// Ownership: the transport's object holds the call until it is done; queued jobs hold it while
// they run; the loop's channels hold it weakly. So neither a late token nor a late job meets a
// dead call. The sink is not touched any more after its Finish or last Send.
#pragma once

#include <atomic>
#include <deque>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "base/clock.h"
#include "grpcpp/server_context.h"
#include "scheduler/token_channel.h"
#include "server/active_calls.h"
#include "server/load_monitor.h"
#include "server/metrics.h"
#include "server/request_builder.h"
#include "server/serial_task.h"
#include "server/served_model.h"
#include "server/tenant_usage.h"
#include "skim/v1/inference.pb.h"
#include "spdlog/logger.h"

namespace skim {

// Borrowed by every call; outlives them all.
struct CallServices {
  TextWorkers* workers = nullptr;
  ActiveCalls* calls = nullptr;
  Metrics* metrics = nullptr;
  TenantUsage* tenants = nullptr;
  const LoadMonitor* load = nullptr;
  const Clock* clock = nullptr;
  spdlog::logger* log = nullptr;
  std::atomic<SeqId>* next_id = nullptr;
  bool log_prompts = false;
  bool abortable = false;  // by request_id
};

// What a transport tells of a call beside its message.
struct CallOrigin {
  Micros deadline = kNever;  // on the loop's clock
  std::string trace_id;      // of W3C's `traceparent`, 32 hex digits; empty without one
};

// gRPC's deadline is wall time; the loop's clock is monotonic.
CallOrigin OriginOf(const grpc::CallbackServerContext& context, Micros now);

// What a protocol does with the messages of a call. One thread at a time.
class GenerateSink {
 public:
  virtual ~GenerateSink() = default;
  // Answered by OnSent, from any thread, unless it is the `last`: the call has then ended well.
  virtual void Send(v1::GenerateResponse response, bool last) = 0;
  // The call has ended, without a last message.
  virtual void Finish(const absl::Status& status) = 0;
};

class GenerateCall final : public ActiveCall, public std::enable_shared_from_this<GenerateCall> {
 public:
  // `request` and `sink` outlive the sink's Finish or last Send.
  GenerateCall(const v1::GenerateRequest* request, const ServedModel& model,
               const CallServices& services, CallOrigin origin, GenerateSink* sink);

  // --- the transport, any thread ---
  void Start();  // first, once
  void OnSent(bool ok);
  void OnClientGone();
  void Done();  // last, once

  void End(const absl::Status& status) override;
  // Its sequences end within a step; what they have said by then is sent.
  void Abort(std::string_view request_id) override;

 private:
  struct Choice {
    std::shared_ptr<TokenChannel> channel;
    std::unique_ptr<ChoiceOutput> output;
    Micros last_token = kNever;
    std::optional<v1::Final> final;
  };

  void Admit();
  absl::Status Submit();
  void Refuse(const absl::Status& status);

  void Wake();
  void Pump();
  void Collect();
  void CollectChoice(uint32_t index);
  void FinishChoice(uint32_t index, const skim::Finish& finish);
  void SendNext();
  void LogOutcome(const absl::Status& status) const;
  absl::Status end_status() const;

  const v1::GenerateRequest* const request_;
  const ServedModel model_;
  const CallServices services_;
  const Micros arrival_;
  const CallOrigin origin_;
  const std::string request_id_;  // empty if it may not be logged
  GenerateSink* const sink_;
  SerialTask task_;

  // Written by Admit, read by Pump once admitted_ is set.
  Generation generation_;
  std::vector<Choice> choices_;
  std::atomic<bool> admitted_{false};

  // Pump's own.
  std::deque<v1::GenerateResponse> outbox_;
  int open_choices_ = 0;
  bool finished_ = false;
  std::atomic<bool> sending_{false};

  // Set by whoever ends the call early; guards `cancellable_` with it, so that a channel made
  // after the end is cancelled too.
  mutable std::mutex mutex_;
  absl::Status end_status_;
  bool aborted_ = false;
  std::vector<std::shared_ptr<TokenChannel>> cancellable_;
};

}  // namespace skim
