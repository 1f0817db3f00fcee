#include "server/config.h"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <filesystem>
#include <map>
#include <optional>

#include "absl/strings/numbers.h"
#include "absl/strings/str_split.h"
#include "absl/strings/string_view.h"
#include "absl/strings/strip.h"
#include "server/version.h"

namespace skim {
namespace {

constexpr char kDescription[] =
    "skimd serves a language model over streaming gRPC.\n"
    "Once it serves, it prints one line: ready grpc=HOST:PORT metrics=HOST:PORT, and\n"
    "worker=HOST:PORT[/SAVINGS] for each port for gateways";

constexpr char kFooter[] =
    "\nSizes take a unit: 512MiB, 2GiB, 1GB (= 1000^3 bytes). Times: 30s, 500ms, 2min.\n"
    "Any option may also stand in the file given with --config, without its dashes:\n"
    "  model = \"/models/smollm2\"\n"
    "  kv-cache = \"2GiB\"\n"
    "The command line wins over the file.\n"
    "\n"
    "Examples:\n"
    "  skimd --model /models/smollm2\n"
    "  skimd --model /models/smollm2 --weights bf16,int8\n"
    "  skimd --model /models/smollm2 --listen 0.0.0.0:50051 --kv-cache 4GiB \\\n"
    "        --tls-cert server.pem --tls-key server.key --auth-token-file tokens.txt\n";

const std::map<std::string, uint64_t> kMillisecondUnits = {{"ms", 1}, {"s", 1000}, {"min", 60'000}};

// A check that adds nothing to the option's line in --help: the type name says it already.
CLI::Validator Quiet(const CLI::Validator& validator) { return validator.description(""); }

// What CLI11 writes into; converted afterwards.
struct RawFlags {
  std::string listen;
  std::string metrics;
  std::vector<std::string> weights;
  std::vector<std::string> workers;
  std::string lazy_boundaries = "auto";
  std::vector<std::string> drafters;
  uint64_t kv_cache_bytes = 0;
  uint64_t answer_store_bytes = 0;
  std::string kv_format{KvFormatName(KvFormat::kBf16)};
  std::string device_memory, cuda_gemm, cuda_graphs;
  uint64_t max_message_bytes = 4 << 20;
  uint64_t drain_timeout_ms = 30'000;
  uint64_t slow_reader_ms = 30'000;
};

void AddModelFlags(CLI::App* app, ServerConfig* config, RawFlags* raw) {
  app->add_option("--model", config->engine.model_dir,
                  "Directory of the model in Hugging Face layout (config.json, *.safetensors, "
                  "tokenizer.json)")
      ->required()
      ->type_name("DIR")
      ->group("Model");
  app->add_option("--model-name", config->model_name,
                  "Name that clients ask for; default: the last part of DIR")
      ->type_name("NAME")
      ->group("Model");
  app->add_option("--weights", raw->weights,
                  "Weight formats to hold: bf16, fp8, int8, int4, each in memory of its own. A "
                  "request gets the first unless it asks for another. All but bf16 are rounded "
                  "when the model is loaded; the embedding stays bf16, and the LM head of fp8 and "
                  "int4 is int8. Default: bf16, or what the checkpoint is quantised to")
      ->delimiter(',')
      ->allow_extra_args(false)
      ->check(Quiet(CLI::IsMember({"bf16", "fp8", "int8", "int4"})))
      ->type_name("FORMAT,FORMAT")
      ->group("Model");
  app->add_option("--max-context", config->engine.max_context,
                  "Longest prompt and output together, in tokens; 0 = what the model allows")
      ->check(Quiet(CLI::NonNegativeNumber))
      ->type_name("TOKENS")
      ->capture_default_str()
      ->group("Model");
}

void AddPruningFlags(CLI::App* app, ServerConfig* config, RawFlags* raw) {
  const char* group = "Prompt pruning";
  app->add_option("--lazy-boundaries", raw->lazy_boundaries,
                  "Layers at which prompts can be pruned, as 18,23; auto = as skim_lazy.json in "
                  "DIR says, or at .3, .6, .7, .77 and .9 of the depth; none = never")
      ->type_name("auto|none|LAYERS")
      ->capture_default_str()
      ->group(group);
  app->add_option("--lazy-min-tokens", config->limits.min_lazy_tokens,
                  "Prompts, or what the prefix cache leaves of them, are computed in full if "
                  "shorter than this")
      ->check(Quiet(CLI::NonNegativeNumber))
      ->type_name("TOKENS")
      ->capture_default_str()
      ->group(group);
  app->add_option("--max-revival-rows", config->scheduler.max_revival_rows,
                  "Pruned tokens that decoding may bring back in one step, over all sequences")
      ->check(Quiet(CLI::Range(0, 4096)))
      ->type_name("TOKENS")
      ->capture_default_str()
      ->group(group);
}

void AddSpeculationFlags(CLI::App* app, ServerConfig* config, RawFlags* raw) {
  const char* group = "Speculation";
  app->add_option("--answer-store", raw->answer_store_bytes,
                  "Memory for the answers of requests that ask to have later ones of the same "
                  "tenant and cache salt guessed from them, as in 64MiB; default: none is stored")
      ->transform(Quiet(CLI::AsSizeValue(true)))
      ->type_name("SIZE")
      ->group(group);
  app->add_option("--draft-model", config->engine.draft_model_dir,
                  "Directory of a second, smaller model with the same tokens, by which requests "
                  "may have their output guessed. Held in int8, or as its checkpoint is quantised; "
                  "its keys and values take room in the KV cache")
      ->type_name("DIR")
      ->group(group);
  app->add_option("--drafters", raw->drafters,
                  "What requests may have their output guessed by: lookup (the request's own "
                  "text), self (the model's first layers, or its copy in a smaller weight "
                  "format), head (the model's trained draft head, if it has one), draft-model (the "
                  "one of --draft-model); none = nothing. Default: all")
      ->delimiter(',')
      ->allow_extra_args(false)
      ->check(Quiet(CLI::IsMember({"none", "lookup", "self", "head", "draft-model"})))
      ->type_name("DRAFTER,DRAFTER")
      ->group(group);
  app->add_option("--max-draft-tokens", config->limits.max_draft_tokens,
                  "Most tokens that a request may have guessed for one step")
      ->check(Quiet(CLI::Range(1, kMaxDrafts)))
      ->type_name("TOKENS")
      ->capture_default_str()
      ->group(group);
}

// Strictly "18,23": what it must fulfil beyond that depends on the model.
std::optional<std::vector<int32_t>> ParseLayers(const std::string& text) {
  std::vector<int32_t> layers;
  for (const absl::string_view part : absl::StrSplit(text, ',')) {
    int32_t layer = 0;
    if (!absl::SimpleAtoi(part, &layer)) return std::nullopt;
    layers.push_back(layer);
  }
  return layers;
}

// Strictly "80%" or "60GiB".
std::optional<DeviceMemory> ParseDeviceMemory(std::string text) {
  DeviceMemory memory;
  if (absl::string_view share = text; absl::ConsumeSuffix(&share, "%")) {
    double percent = 0;
    if (!absl::SimpleAtod(share, &percent) || !(percent > 0 && percent <= 100)) return std::nullopt;
    memory.share = percent / 100;
    return memory;
  }
  try {
    CLI::AsSizeValue(true)(text);  // replaces "60GiB" by digits
  } catch (const CLI::ValidationError&) {
    return std::nullopt;
  }
  if (!absl::SimpleAtoi(text, &memory.bytes) || memory.bytes <= 0) return std::nullopt;
  return memory;
}

void AddMachineFlags(CLI::App* app, ServerConfig* config, RawFlags* raw) {
  app->add_option("--backend", config->engine.backend.backend, "What computes")
      ->check(Quiet(CLI::IsMember({"cpu", "cuda"})))
      ->type_name("cpu|cuda")
      ->capture_default_str()
      ->group("Machine");
  app->add_option("--device-memory", raw->device_memory,
                  "Memory that cuda takes of its device at the start, for weights, keys and values "
                  "and all else: as 60GiB, or as 80% of what is free; default 90%")
      ->type_name("SIZE|SHARE%")
      ->group("Machine");
  app->add_option("--cuda-gemm", raw->cuda_gemm,
                  "Who multiplies many rows with weights in bf16, fp8 and int8: own, whose rows "
                  "have the same bits whatever else is in the batch, or cublaslt, NVIDIA's "
                  "library, which must be installed and keeps that in int8 only; default own")
      ->check(Quiet(CLI::IsMember({"own", "cublaslt"})))
      ->type_name("own|cublaslt")
      ->group("Machine");
  app->add_option("--cuda-graphs", raw->cuda_graphs,
                  "Whether decode steps that repeat are launched as a CUDA graph, with one call in "
                  "place of one for each kernel: less for the host to do, most felt where steps are "
                  "short; results are the same. Graphs take some memory of the driver's beside "
                  "--device-memory; default on")
      ->check(Quiet(CLI::IsMember({"on", "off"})))
      ->type_name("on|off")
      ->group("Machine");
  app->add_option("--isa", config->engine.backend.isa,
                  "Instructions to compute with on a CPU; auto = the best this machine has")
      ->check(Quiet(CLI::IsMember({"auto", "amx", "avx512", "avx2", "plain"})))
      ->type_name("auto|amx|avx512|avx2|plain")
      ->capture_default_str()
      ->group("Machine");
  app->add_option("--threads", config->engine.backend.threads,
                  "Threads that compute; 0 = one per physical core")
      ->check(Quiet(CLI::Range(0, 1024)))
      ->type_name("N")
      ->capture_default_str()
      ->group("Machine");
  app->add_option("--text-threads", config->text_threads,
                  "Threads that turn text into tokens and back")
      ->check(Quiet(CLI::Range(1, 64)))
      ->type_name("N")
      ->capture_default_str()
      ->group("Machine");
  app->add_option(
         "--kv-cache", raw->kv_cache_bytes,
         "Memory for keys and values; 0 = a quarter of what is free, or with cuda three quarters "
         "of what the weights leave of --device-memory")
      ->transform(Quiet(CLI::AsSizeValue(true)))
      ->type_name("SIZE")
      ->group("Machine");
  app->add_option(
         "--kv-format", raw->kv_format,
         "How keys and values are kept: int8 and fp8 hold nearly twice the tokens and lose "
         "a little precision; int8 loses less")
      ->check(Quiet(CLI::IsMember({"bf16", "int8", "fp8"})))
      ->type_name("bf16|int8|fp8")
      ->capture_default_str()
      ->group("Machine");
}

void AddSchedulerFlags(CLI::App* app, ServerConfig* config, RawFlags* raw) {
  SchedulerConfig& s = config->scheduler;
  const auto add = [&](const char* name, auto* value, const char* help, const char* unit) {
    app->add_option(name, *value, help)
        ->check(Quiet(CLI::PositiveNumber))
        ->type_name(unit)
        ->capture_default_str()
        ->group("Scheduling");
  };
  add("--max-rows-per-step", &s.max_rows_per_step,
      "Tokens computed together in one step: more = faster prompts, slower steps", "TOKENS");
  app->add_option(
         "--max-decode-slowdown", s.max_decode_slowdown,
         "How many times as long a step may take for the prompts computed beside those who "
         "decode, as in 2: their tokens stay steady, prompts take longer; default 0, any")
      ->type_name("RATIO")
      ->group("Scheduling");
  add("--max-running", &s.max_running, "Sequences computed at the same time", "N");
  add("--max-waiting", &s.max_waiting, "Sequences in the queue before calls are refused", "N");
  add("--max-waiting-tokens", &s.max_waiting_tokens,
      "Prompt tokens in the queue before calls are refused", "TOKENS");
  app->add_option("--slow-reader-limit", raw->slow_reader_ms,
                  "A client that reads nothing for this long loses its stream; default 30s")
      ->transform(
          Quiet(CLI::AsNumberWithUnit(kMillisecondUnits, CLI::AsNumberWithUnit::UNIT_REQUIRED)))
      ->type_name("TIME")
      ->group("Scheduling");
  app->add_flag("--prefix-cache,!--no-prefix-cache", s.prefix_cache,
                "Reuse the keys and values of prompts that begin alike; default on")
      ->group("Scheduling");
}

void AddServingFlags(CLI::App* app, ServerConfig* config, RawFlags* raw) {
  const char* group = "Serving";
  app->add_option("--listen", raw->listen, "Address of the gRPC service; port 0 = any free one")
      ->default_str(config->listen.ToString())
      ->type_name("HOST:PORT")
      ->group(group);
  app->add_option("--metrics", raw->metrics,
                  "Address of Prometheus metrics (http, path /metrics); port 0 = any free one")
      ->default_str(config->metrics.ToString())
      ->type_name("HOST:PORT")
      ->group(group);
  app->add_option("--worker-listen", raw->workers,
                  "Address for gateways that speak vllm.grpc.engine.VllmEngine; they show no "
                  "token, so keep it inside your network. What comes through HOST:PORT/SAVINGS "
                  "gets these: a weight format, a profile for pruning, who guesses ahead (auto, "
                  "lookup, self, self-int8, ..), or several as in fast+int8; gateways know it as "
                  "model NAME:SAVINGS. Default: not served")
      ->delimiter(',')
      ->allow_extra_args(false)
      ->type_name("HOST:PORT[/SAVINGS],...")
      ->group(group);
  app->add_option("--max-output-tokens", config->limits.max_output_tokens,
                  "Most tokens that a call may generate; 0 = what the context leaves")
      ->check(Quiet(CLI::NonNegativeNumber))
      ->type_name("TOKENS")
      ->capture_default_str()
      ->group(group);
  app->add_option("--max-n", config->limits.max_n, "Most choices of one call")
      ->check(Quiet(CLI::Range(1, 1024)))
      ->type_name("N")
      ->capture_default_str()
      ->group(group);
  app->add_option("--max-message-bytes", raw->max_message_bytes,
                  "Largest message a client may send; default 4MiB")
      ->transform(Quiet(CLI::AsSizeValue(true)))
      ->check(Quiet(CLI::Range(uint64_t{1} << 10, uint64_t{1} << 30)))
      ->type_name("SIZE")
      ->group(group);
  app->add_option("--drain-timeout", raw->drain_timeout_ms,
                  "After SIGTERM, how long streams may go on; a second SIGTERM ends at once; "
                  "default 30s")
      ->transform(
          Quiet(CLI::AsNumberWithUnit(kMillisecondUnits, CLI::AsNumberWithUnit::UNIT_REQUIRED)))
      ->type_name("TIME")
      ->group(group);
}

void AddMetricsFlags(CLI::App* app, ServerConfig* config) {
  app->add_flag("--vllm-metrics", config->vllm_metrics,
                "Show metrics under the names of vLLM as well, for dashboards and autoscalers that "
                "look for those")
      ->group("Serving");
  app->add_option("--tenant-labels", config->tenant_labels,
                  "Tenants that get a label of their own in metrics; the rest are `other`")
      ->check(Quiet(CLI::Range(0, 10'000)))
      ->type_name("N")
      ->capture_default_str()
      ->group("Serving");
}

void AddSecurityFlags(CLI::App* app, ServerConfig* config) {
  const char* group = "Security";
  auto* cert = app->add_option("--tls-cert", config->tls_cert,
                               "PEM file with the server's certificate chain; turns TLS on");
  auto* key = app->add_option("--tls-key", config->tls_key, "PEM file with its private key");
  auto* client_ca = app->add_option(
      "--tls-client-ca", config->tls_client_ca,
      "PEM file; clients must show a certificate that one of these authorities signed");
  cert->needs(key)->type_name("FILE")->group(group);
  key->needs(cert)->type_name("FILE")->group(group);
  client_ca->needs(cert)->type_name("FILE")->group(group);
  app->add_option("--auth-token-file", config->auth_token_file,
                  "File with bearer tokens, one a line; calls must carry one of them. Health "
                  "checks need none")
      ->type_name("FILE")
      ->group(group);
}

void AddLogFlags(CLI::App* app, ServerConfig* config) {
  app->add_option("--log-level", config->log_level, "What to write to stderr")
      ->check(Quiet(CLI::IsMember({"debug", "info", "warn", "error", "off"})))
      ->type_name("debug|info|warn|error|off")
      ->capture_default_str()
      ->group("Logging");
  app->add_flag("--log-prompts", config->log_prompts,
                "Write prompts into the log, which is otherwise free of users' text")
      ->group("Logging");
}

EarlyExit Mistake(const std::string& what) {
  return {2, "skimd: " + what + "\nTry skimd --help.\n"};
}

// The last part of the directory, whatever slashes it ends with.
std::string NameOf(const std::string& model_dir) {
  std::filesystem::path path = std::filesystem::path(model_dir).lexically_normal();
  if (!path.has_filename()) path = path.parent_path();
  return path.filename().string();
}

std::variant<ServerConfig, EarlyExit> Convert(ServerConfig config, const RawFlags& raw) {
  for (const auto& [flag, text, address] :
       {std::tuple{"--listen", &raw.listen, &config.listen},
        std::tuple{"--metrics", &raw.metrics, &config.metrics}}) {
    if (text->empty()) continue;
    auto parsed = ParseListenAddress(*text);
    if (!parsed.ok()) {
      return Mistake(std::string(flag) + ": " + std::string(parsed.status().message()));
    }
    *address = *parsed;
  }
  for (const std::string& name : raw.weights) {
    const WeightFormat format = WeightFormatOfName(name).value();  // checked while parsing
    if (std::ranges::count(config.engine.weights, format) > 0) {
      return Mistake("--weights: " + name + " is given twice");
    }
    config.engine.weights.push_back(format);
  }
  if (!raw.drafters.empty()) config.limits.drafters.clear();
  for (const std::string& name : raw.drafters) {
    const DrafterKind kind = DrafterOfName(name).value();  // checked while parsing
    if (kind == DrafterKind::kNone && raw.drafters.size() > 1) {
      return Mistake("--drafters: none goes with no other");
    }
    if (kind == DrafterKind::kNone) break;
    if (std::ranges::count(config.limits.drafters, kind) > 0) {
      return Mistake("--drafters: " + name + " is given twice");
    }
    config.limits.drafters.push_back(kind);
  }
  for (const std::string& worker : raw.workers) {
    const auto parsed = ParseWorkerAddress(worker);
    if (!parsed.ok()) {
      return Mistake("--worker-listen: " + std::string(parsed.status().message()));
    }
    config.workers.push_back(*parsed);
  }
  const double slowdown = config.scheduler.max_decode_slowdown;
  if (slowdown != 0 && !(slowdown >= 1.1 && slowdown <= 1000)) {
    return Mistake("--max-decode-slowdown: must be 0, or 1.1 to 1000");
  }
  if (config.scheduler.max_running > config.scheduler.max_rows_per_step) {
    return Mistake("--max-running: a step of --max-rows-per-step " +
                   std::to_string(config.scheduler.max_rows_per_step) +
                   " has no row for every running sequence");
  }
  constexpr uint64_t kMostMilliseconds = 24 * 3600 * 1000;
  if (raw.drain_timeout_ms > kMostMilliseconds || raw.slow_reader_ms > kMostMilliseconds) {
    return Mistake("--drain-timeout and --slow-reader-limit are at most a day");
  }
  if (raw.kv_cache_bytes > static_cast<uint64_t>(INT64_MAX)) {
    return Mistake("--kv-cache: more bytes than an address has");
  }
  config.engine.kv_cache_bytes = static_cast<int64_t>(raw.kv_cache_bytes);
  const bool cuda = config.engine.backend.backend == "cuda";
  if (!raw.device_memory.empty()) {
    if (!cuda) return Mistake("--device-memory: only the backend cuda has a device");
    const auto memory = ParseDeviceMemory(raw.device_memory);
    if (!memory) return Mistake("--device-memory: give bytes as in 60GiB, or a share as in 80%");
    config.engine.backend.device_memory = *memory;
  }
  if (!raw.cuda_gemm.empty()) {
    if (!cuda) return Mistake("--cuda-gemm: only the backend cuda has it");
    config.engine.backend.cuda_gemm = raw.cuda_gemm;
  }
  if (!raw.cuda_graphs.empty()) {
    if (!cuda) return Mistake("--cuda-graphs: only the backend cuda has them");
    config.engine.backend.cuda_graphs = raw.cuda_graphs == "on";
  }
  constexpr uint64_t kLeastStore = 1 << 20, kMostStore = uint64_t{1} << 40;
  if (raw.answer_store_bytes != 0 &&
      (raw.answer_store_bytes < kLeastStore || raw.answer_store_bytes > kMostStore)) {
    return Mistake("--answer-store: must be 0, or 1MiB to 1TiB");
  }
  config.scheduler.answer_store_bytes = static_cast<int64_t>(raw.answer_store_bytes);
  config.limits.answer_store_bytes = config.scheduler.answer_store_bytes;
  for (KvFormat format : {KvFormat::kBf16, KvFormat::kInt8, KvFormat::kFp8}) {
    if (raw.kv_format == KvFormatName(format)) config.engine.kv_format = format;
  }
  config.engine.max_rows_per_step = config.scheduler.max_rows_per_step;
  config.engine.max_running = config.scheduler.max_running;
  config.engine.max_revival_rows = config.scheduler.max_revival_rows;
  config.limits.max_revival_rows = config.scheduler.max_revival_rows;
  if (raw.lazy_boundaries == "none") {
    config.engine.lazy_boundaries.emplace();
  } else if (raw.lazy_boundaries != "auto") {
    config.engine.lazy_boundaries = ParseLayers(raw.lazy_boundaries);
    if (!config.engine.lazy_boundaries) {
      return Mistake("--lazy-boundaries: give auto, none or layers as in 18,23");
    }
  }
  config.max_message_bytes = static_cast<int32_t>(raw.max_message_bytes);
  config.drain_timeout = static_cast<Micros>(raw.drain_timeout_ms) * 1000;
  config.scheduler.slow_reader_limit = static_cast<Micros>(raw.slow_reader_ms) * 1000;
  if (config.model_name.empty()) config.model_name = NameOf(config.engine.model_dir);
  return config;
}

}  // namespace

std::variant<ServerConfig, EarlyExit> ParseCommandLine(int argc, const char* const* argv) {
  ServerConfig config;
  RawFlags raw;
  CLI::App app(kDescription, "skimd");
  app.footer(kFooter);
  app.get_formatter()->column_width(34);
  app.set_version_flag("--version", std::string("skimd ") + kVersion);
  app.set_config("--config", "", "File with options, TOML")->type_name("FILE");
  app.allow_config_extras(CLI::config_extras_mode::error);
  AddModelFlags(&app, &config, &raw);
  AddServingFlags(&app, &config, &raw);
  AddMetricsFlags(&app, &config);
  AddSecurityFlags(&app, &config);
  AddSchedulerFlags(&app, &config, &raw);
  AddPruningFlags(&app, &config, &raw);
  AddSpeculationFlags(&app, &config, &raw);
  AddMachineFlags(&app, &config, &raw);
  AddLogFlags(&app, &config);
  try {
    app.parse(argc, argv);
  } catch (const CLI::CallForHelp&) {
    return EarlyExit{0, app.help()};
  } catch (const CLI::CallForVersion&) {
    return EarlyExit{0, app.version() + "\n"};
  } catch (const CLI::ConfigError& error) {
    return Mistake(std::string("--config: ") + error.what());
  } catch (const CLI::ParseError& error) {
    return Mistake(error.what());
  }
  return Convert(std::move(config), raw);
}

}  // namespace skim
