// One Generate call. gRPC's callbacks and the serving loop only wake it; everything else
// runs on the text workers, so no callback ever blocks.
//
// Life: Start -> Admit (admission job: validate, tokenise, submit) -> Pump, woken by tokens,
// by finished writes and by the end of the client (serial task: drain channels, write one
// message at a time) -> Finish -> OnDone. While a write is in flight no channel is drained,
// so a slow reader fills its channels, not our memory.
//
// Ownership: `self_` holds the reactor until OnDone; queued jobs hold it while they run; the
// loop's channels hold it weakly. So neither a late token nor a late job meets a dead reactor.
#pragma once

#include <atomic>
#include <deque>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "base/clock.h"
#include "grpcpp/server_context.h"
#include "grpcpp/support/server_callback.h"
#include "scheduler/token_channel.h"
#include "server/active_calls.h"
#include "server/metrics.h"
#include "server/request_builder.h"
#include "server/serial_task.h"
#include "server/served_model.h"
#include "skim/v1/inference.pb.h"
#include "spdlog/logger.h"

namespace skim {

// Borrowed by every call; outlives them all.
struct CallServices {
  TextWorkers* workers = nullptr;
  ActiveCalls* calls = nullptr;
  Metrics* metrics = nullptr;
  const Clock* clock = nullptr;
  spdlog::logger* log = nullptr;
  std::atomic<SeqId>* next_id = nullptr;
  bool log_prompts = false;
};

class GenerateReactor final : public grpc::ServerWriteReactor<v1::GenerateResponse>,
                              public ActiveCall,
                              public std::enable_shared_from_this<GenerateReactor> {
 public:
  // The reactor to hand to gRPC. `request` lives until OnDone.
  static GenerateReactor* Start(const grpc::CallbackServerContext& context,
                                const v1::GenerateRequest* request, const ServedModel& model,
                                const CallServices& services);

  void End(const absl::Status& status) override;

  // --- gRPC's threads ---
  void OnWriteDone(bool ok) override;
  void OnCancel() override;
  void OnDone() override;

 private:
  struct Choice {
    std::shared_ptr<TokenChannel> channel;
    std::unique_ptr<ChoiceOutput> output;
    Micros last_token = kNever;
    std::optional<v1::Final> final;
  };

  GenerateReactor(const grpc::CallbackServerContext& context, const v1::GenerateRequest* request,
                  const ServedModel& model, const CallServices& services);

  void Admit();
  absl::Status Submit();
  void Refuse(const absl::Status& status);

  void Wake();
  void Pump();
  void Collect();
  void CollectChoice(uint32_t index);
  void FinishChoice(uint32_t index, const skim::Finish& finish);
  void Write();
  void LogOutcome(const absl::Status& status) const;
  absl::Status end_status() const;

  const v1::GenerateRequest* const request_;
  const ServedModel model_;
  const CallServices services_;
  const Micros arrival_;
  const Micros deadline_;         // the call's own, on the loop's clock
  const std::string request_id_;  // empty if it may not be logged
  std::shared_ptr<GenerateReactor> self_;
  SerialTask task_;

  // Written by Admit, read by Pump once admitted_ is set.
  Generation generation_;
  std::vector<Choice> choices_;
  std::atomic<bool> admitted_{false};

  // Pump's own.
  std::deque<v1::GenerateResponse> outbox_;
  v1::GenerateResponse writing_message_;
  int open_choices_ = 0;
  bool finished_ = false;
  std::atomic<bool> writing_{false};

  // Set once by whoever ends the call early; guards `cancellable_` with it, so that a
  // channel made after the end is cancelled too.
  mutable std::mutex mutex_;
  absl::Status end_status_;
  std::vector<std::shared_ptr<TokenChannel>> cancellable_;
};

}  // namespace skim
