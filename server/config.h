// Everything that can be set from outside, by flag or by file, with its default.
#pragma once

#include <cstdint>
#include <string>
#include <variant>
#include <vector>

#include "base/types.h"
#include "engine/engine.h"
#include "scheduler/serving_loop.h"
#include "server/listen_address.h"
#include "server/served_model.h"
#include "server/worker_ports.h"

namespace skim {

struct ServerConfig {
  EngineOptions engine;
  SchedulerConfig scheduler;  // max_context is filled in once the model is known
  RequestLimits limits;
  std::string model_name;  // empty = the last part of the model's directory

  ListenAddress listen{"127.0.0.1", 50051};
  ListenAddress metrics{"127.0.0.1", 9090};
  std::vector<WorkerAddress> workers;  // for gateways
  std::string tls_cert;                // PEM files; empty = plaintext
  std::string tls_key;
  std::string tls_client_ca;  // set = clients must show a certificate of this authority
  std::string auth_token_file;
  int32_t max_message_bytes = 4 << 20;
  int32_t text_threads = 2;
  Micros drain_timeout = 30'000'000;

  std::string log_level = "info";
  bool log_prompts = false;

  bool vllm_metrics = false;  // aliases beside our own names
  int32_t tenant_labels = 10;
};

// The process is to end at once: after --help, or because the command line is wrong.
struct EarlyExit {
  int code = 0;         // 0 for --help and --version, 2 for a mistake
  std::string message;  // for stdout if the code is 0, else for stderr
};

std::variant<ServerConfig, EarlyExit> ParseCommandLine(int argc, const char* const* argv);

}  // namespace skim
