#include "server/serving_stack.h"

#include <utility>

#include "base/status_macros.h"

namespace skim {
namespace {

// Calls that may wait for a tokeniser; each holds at most one message.
constexpr size_t kMaxWaitingAdmissions = 1024;
// For a stream that was told to end to get its status out.
constexpr Micros kEndGrace = 1'000'000;

}  // namespace

absl::StatusOr<std::unique_ptr<ServingStack>> ServingStack::Start(Options options, Metrics* metrics,
                                                                  const Clock* clock,
                                                                  spdlog::logger* log) {
  std::unique_ptr<ServingStack> stack(new ServingStack(options, metrics, clock, log));
  SKIM_ASSIGN_OR_RETURN(stack->server_, RpcServer::Start(options.rpc, &stack->service_));
  return stack;
}

ServingStack::ServingStack(const Options& options, Metrics* metrics, const Clock* clock,
                           spdlog::logger* log)
    : metrics_(metrics),
      clock_(clock),
      log_(log),
      workers_(options.text_threads, kMaxWaitingAdmissions),
      service_(CallServices{.workers = &workers_,
                            .calls = &calls_,
                            .metrics = metrics,
                            .clock = clock,
                            .log = log,
                            .next_id = &next_id_,
                            .log_prompts = options.log_prompts},
               options.auth) {}

ServingStack::~ServingStack() {
  if (server_ != nullptr) Drain(0);
}

void ServingStack::Serve(const SchedulerConfig& scheduler, StepExecutor* executor,
                         ServedModel model) {
  loop_ = std::make_unique<ServingLoop>(scheduler, executor, clock_, metrics_);
  model.loop = loop_.get();
  service_.Serve(model);
  server_->SetServing(true);
}

bool ServingStack::CheckEngine() {
  if (loop_->healthy()) return true;
  server_->SetServing(false);
  server_->SetAlive(false);
  return false;
}

void ServingStack::Drain(Micros timeout) {
  if (std::exchange(drained_, true)) return;
  service_.StopServing();
  server_->SetServing(false);
  if (loop_ != nullptr) loop_->Drain();
  if (!calls_.WaitUntilNone(timeout)) {
    log_->warn("{} calls have not ended in time; ending them", calls_.size());
    calls_.EndAll(absl::UnavailableError("the server is shutting down"));
    calls_.WaitUntilNone(kEndGrace);
  }
  // A client that does not read cannot be told; its connection goes instead.
  server_->Shutdown(kEndGrace);
}

}  // namespace skim
