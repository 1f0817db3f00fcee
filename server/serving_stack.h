// The serving half of the daemon: gRPC servers, text workers, serving loop, and the order in
// which they begin and end. What it serves (executor, tokenizer) comes from outside, so
// tests run the whole service on a fake engine.
#pragma once

#include <atomic>
#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "base/clock.h"
#include "engine/step_executor.h"
#include "server/inference_service.h"
#include "server/kserve_service.h"
#include "server/load_monitor.h"
#include "server/load_report.h"
#include "server/metrics.h"
#include "server/rpc_server.h"
#include "server/serving_gate.h"
#include "server/text_workers.h"
#include "server/worker_ports.h"

namespace skim {

class ServingStack {
 public:
  struct Options {
    RpcServerOptions rpc;
    // Where gateways call VllmEngine; with the same limits and TLS, without tokens.
    std::vector<WorkerAddress> workers;
    BearerAuth auth{{}};
    int text_threads = 2;
    int tenant_labels = 10;  // tenants with a label of their own in metrics
    bool log_prompts = false;
  };

  // Listens at once: health says NOT_SERVING and calls get UNAVAILABLE until Serve().
  // Borrows everything; all must outlive the stack.
  static absl::StatusOr<std::unique_ptr<ServingStack>> Start(Options options, Metrics* metrics,
                                                             const Clock* clock,
                                                             spdlog::logger* log);
  // Ends what still runs, at once.
  ~ServingStack();

  // Starts the loop on `executor` and opens the service. Once. `model.loop` and
  // `model.shares_prefixes` are set here. The savings of the workers must be the model's.
  void Serve(const SchedulerConfig& scheduler, StepExecutor* executor, ServedModel model);

  // Turns health off for good once the engine has failed. False from then on.
  bool CheckEngine();

  // Refuses new calls, lets streams go on for `timeout`, ends the rest with UNAVAILABLE and
  // stops listening. Idempotent.
  void Drain(Micros timeout);

  const ListenAddress& address() const { return server_->address(); }
  std::vector<WorkerAddress> worker_addresses() const { return workers_->addresses(); }
  size_t active_calls() const { return calls_.size(); }
  ServingLoop* loop() const { return loop_.get(); }

 private:
  ServingStack(const Options& options, Metrics* metrics, const Clock* clock, spdlog::logger* log);
  CallServices Services(const Options& options, Metrics* metrics);
  absl::Status Listen(const Options& options, Metrics* metrics);
  void SetServing(bool serving);

  const Clock* const clock_;
  spdlog::logger* const log_;

  // Ends in the opposite order: no callback may meet a dead worker or loop.
  TextWorkers text_workers_;
  ActiveCalls calls_;
  std::atomic<SeqId> next_id_{1};
  ServingGate gate_;
  LoadMonitor load_;
  TenantUsage tenants_;
  InferenceService inference_;
  KserveService kserve_;
  LoadReportService load_report_;
  // The loop tells the ports, the ports' calls use the loop: it ends before they do, when nobody
  // calls any more.
  std::unique_ptr<WorkerPorts> workers_;
  std::unique_ptr<ServingLoop> loop_;
  std::unique_ptr<RpcServer> server_;
  bool drained_ = false;
};

}  // namespace skim
