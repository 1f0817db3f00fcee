#include "server/serving_stack.h"

#include <algorithm>
#include <chrono>
#include <thread>
#include <utility>

#include "base/status_macros.h"

namespace skim {
namespace {

// Calls that may wait for a tokeniser; each holds at most one message.
constexpr size_t kMaxWaitingAdmissions = 1024;
// So long at least new calls are refused with UNAVAILABLE, which clients try elsewhere, before
// connections close: whoever watches our health has stopped sending by then. A call that comes
// while they close gets CANCELLED from gRPC.
constexpr Micros kNoticeTime = 200'000;
// For a stream that was told to end to get its status out.
constexpr Micros kEndGrace = 1'000'000;

}  // namespace

absl::StatusOr<std::unique_ptr<ServingStack>> ServingStack::Start(Options options, Metrics* metrics,
                                                                  const Clock* clock,
                                                                  spdlog::logger* log) {
  std::unique_ptr<ServingStack> stack(new ServingStack(options, metrics, clock, log));
  SKIM_RETURN_IF_ERROR(stack->Listen(options, metrics));
  return stack;
}

ServingStack::ServingStack(const Options& options, Metrics* metrics, const Clock* clock,
                           spdlog::logger* log)
    : clock_(clock),
      log_(log),
      text_workers_(options.text_threads, kMaxWaitingAdmissions),
      load_(metrics, clock),
      tenants_(metrics->registry().get(), options.tenant_labels),
      inference_(Services(options, metrics), &gate_, options.auth),
      kserve_(Services(options, metrics), &gate_, options.auth),
      load_report_(&load_) {}

CallServices ServingStack::Services(const Options& options, Metrics* metrics) {
  return {.workers = &text_workers_,
          .calls = &calls_,
          .metrics = metrics,
          .tenants = &tenants_,
          .load = &load_,
          .clock = clock_,
          .log = log_,
          .next_id = &next_id_,
          .log_prompts = options.log_prompts};
}

absl::Status ServingStack::Listen(const Options& options, Metrics* metrics) {
  SKIM_ASSIGN_OR_RETURN(
      server_,
      RpcServer::Start(options.rpc,
                       {.services = {&inference_, &kserve_, &load_report_},
                        .health_names = {v1::Inference::service_full_name(),
                                         kserve::GRPCInferenceService::service_full_name()}}));
  SKIM_ASSIGN_OR_RETURN(
      workers_, WorkerPorts::Listen(options.workers, options.rpc, Services(options, metrics),
                                    &gate_, &load_report_));
  return absl::OkStatus();
}

void ServingStack::SetServing(bool serving) {
  server_->SetServing(serving);
  workers_->SetServing(serving);
}

ServingStack::~ServingStack() {
  if (workers_ != nullptr) Drain(0);
}

void ServingStack::Serve(const SchedulerConfig& scheduler, StepExecutor* executor,
                         ServedModel model) {
  load_.SetCapacity(scheduler, executor->kv_geometry());
  workers_->Begin(model, executor->kv_geometry().page_tokens);
  loop_ = std::make_unique<ServingLoop>(scheduler, executor, clock_, &load_,
                                        workers_->empty() ? nullptr : workers_.get());
  model.loop = loop_.get();
  model.shares_prefixes = scheduler.prefix_cache;
  gate_.Open(model);
  SetServing(true);
}

bool ServingStack::CheckEngine() {
  if (loop_->healthy()) return true;
  SetServing(false);
  server_->SetAlive(false);
  workers_->SetAlive(false);
  return false;
}

void ServingStack::Drain(Micros timeout) {
  if (std::exchange(drained_, true)) return;
  gate_.Close();
  SetServing(false);
  const auto noticed =
      std::chrono::steady_clock::now() + std::chrono::microseconds(std::min(timeout, kNoticeTime));
  if (loop_ != nullptr) loop_->Drain();
  if (!calls_.WaitUntilNone(timeout)) {
    log_->warn("{} calls have not ended in time; ending them", calls_.size());
    calls_.EndAll(absl::UnavailableError("the server is shutting down"));
    calls_.WaitUntilNone(kEndGrace);
  }
  std::this_thread::sleep_until(noticed);
  // A client that does not read cannot be told; its connection goes instead.
  server_->Shutdown(kEndGrace);
  workers_->Shutdown(kEndGrace);
}

}  // namespace skim
