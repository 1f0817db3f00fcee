#include "server/daemon.h"

#include <cstdio>
#include <memory>
#include <string>

#include "absl/strings/str_join.h"
#include "base/status_macros.h"
#include "server/metric_aliases.h"
#include "server/metrics_exposer.h"
#include "server/serving_stack.h"

namespace skim {
namespace {

constexpr Micros kEngineCheckInterval = 500'000;

double Mebibytes(uint64_t bytes) { return static_cast<double>(bytes) / (1 << 20); }

absl::StatusOr<std::unique_ptr<Engine>> LoadEngine(const EngineOptions& options,
                                                   spdlog::logger* log) {
  log->info("loading {}", options.model_dir);
  int told_tenths = 0;
  SKIM_ASSIGN_OR_RETURN(auto engine, Engine::Load(options, [&](uint64_t done, uint64_t total) {
                          const int tenths =
                              total == 0 ? 10 : static_cast<int>(10.0 * done / total);
                          if (tenths <= told_tenths) return;
                          told_tenths = tenths;
                          log->info("loaded {}% of {} MiB of weights", tenths * 10, total >> 20);
                        }));
  const ModelInfo& model = engine->model();
  log->info(
      "{}: {} parameters, {} layers, context {} tokens, weights {} MiB, KV cache {} MiB in {} for "
      "{} tokens, {}",
      model.architecture, model.parameters, model.layers, model.max_context,
      model.weight_bytes >> 20, model.kv_cache_bytes >> 20, KvFormatName(model.kv_format),
      model.kv_cache_tokens, model.backend);
  for (const FormatInfo& weights : model.weights) {
    log->info("weights {}: {:.1f} MiB{}", WeightFormatName(weights.format),
              Mebibytes(weights.bytes),
              weights.format == model.weights.front().format ? ", the default" : "");
  }
  log->info("weights common to all formats: {:.1f} MiB", Mebibytes(model.common_weight_bytes));
  if (model.draft_head_bytes > 0) {
    log->info("draft head: {:.1f} MiB", Mebibytes(model.draft_head_bytes));
  }
  if (!model.adapted_exits.empty()) {
    log->info("adapters of exits {}: {:.1f} MiB", absl::StrJoin(model.adapted_exits, ", "),
              Mebibytes(model.exit_adapter_bytes));
  }
  if (model.draft_model_bytes > 0) {
    log->info("draft model {}: {:.1f} MiB", options.draft_model_dir,
              Mebibytes(model.draft_model_bytes));
  }
  return engine;
}

absl::StatusOr<ServingStack::Options> StackOptions(const ServerConfig& config) {
  ServingStack::Options options;
  options.rpc.listen = config.listen;
  options.workers = config.workers;
  options.rpc.max_message_bytes = config.max_message_bytes;
  options.text_threads = config.text_threads;
  options.tenant_labels = config.tenant_labels;
  options.log_prompts = config.log_prompts;
  SKIM_ASSIGN_OR_RETURN(options.rpc.credentials,
                        MakeCredentials(config.tls_cert, config.tls_key, config.tls_client_ca));
  if (!config.auth_token_file.empty()) {
    SKIM_ASSIGN_OR_RETURN(options.auth, BearerAuth::FromFile(config.auth_token_file));
  }
  return options;
}

void WaitForStop(Signals* signals, ServingStack* stack, spdlog::logger* log) {
  bool healthy = true;
  while (!signals->WaitForStop(kEngineCheckInterval)) {
    if (!healthy || stack->CheckEngine()) continue;
    healthy = false;
    log->error("the engine has failed; health is off until a restart");
  }
}

}  // namespace

absl::Status RunDaemon(const ServerConfig& config, Signals* signals, spdlog::logger* log) {
  SteadyClock clock;
  Metrics metrics;
  std::unique_ptr<Engine> engine;
  std::unique_ptr<Tokenizer> tokenizer;
  SKIM_ASSIGN_OR_RETURN(const auto exposer, MetricsExposer::Start(config.metrics, metrics));
  const auto aliases = std::make_shared<MetricAliases>(metrics.registry(), config.model_name);
  if (config.vllm_metrics) exposer->Add(aliases);
  SKIM_ASSIGN_OR_RETURN(auto options, StackOptions(config));
  SKIM_ASSIGN_OR_RETURN(const auto stack,
                        ServingStack::Start(std::move(options), &metrics, &clock, log));
  SKIM_ASSIGN_OR_RETURN(tokenizer, Tokenizer::Load(config.engine.model_dir));
  SKIM_ASSIGN_OR_RETURN(engine, LoadEngine(config.engine, log));

  const ModelInfo& info = engine->model();
  const ServedModel model = {.name = config.model_name,
                             .directory = config.engine.model_dir,
                             .info = &info,
                             .tokenizer = tokenizer.get(),
                             .loop = nullptr,
                             .limits = config.limits};
  SKIM_RETURN_IF_ERROR(CheckWorkerSavings(config.workers, model));
  metrics.SetModel(config.model_name, info);
  metrics.SetKvCache(engine->executor().kv_geometry().page_tokens, info.kv_cache_tokens);
  SchedulerConfig scheduler = config.scheduler;
  scheduler.max_context = info.max_context;
  stack->Serve(scheduler, &engine->executor(), model);
  signals->BeginServing();
  std::string ready =
      "ready grpc=" + stack->address().ToString() + " metrics=" + exposer->address().ToString();
  for (const WorkerAddress& worker : stack->worker_addresses()) {
    ready += " worker=" + worker.ToString();
  }
  std::puts(ready.c_str());
  std::fflush(stdout);

  WaitForStop(signals, stack.get(), log);
  log->info("draining: {} calls under way", stack->active_calls());
  stack->Drain(config.drain_timeout);
  log->info("stopped");
  return absl::OkStatus();
}

}  // namespace skim
