// skim-bench: starts a daemon, measures it over gRPC and the machine under it, and prints one
// JSON object per line.
#include <CLI/CLI.hpp>
#include <iostream>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "base/status_macros.h"
#include "cli/errors.h"
#include "cli/progress_bar.h"
#include "cli/weight_format_name.h"
#include "kernels/bench/roofs.h"
#include "kernels/cpu/cores.h"
#include "loadtest/bench_figure.h"
#include "loadtest/daemon_process.h"
#include "loadtest/lazy_bench.h"
#include "loadtest/metrics_scrape.h"
#include "loadtest/serve_bench.h"
#include "loadtest/speculate_bench.h"

namespace skim {
namespace {

struct Flags {
  DaemonOptions daemon;
  std::string isa = "auto";
  int threads = 0;
  std::vector<std::string> weights;
  int repetitions = 0;
  LazyBenchOptions lazy;
  SpeculateBenchOptions speculate;
  bool quick = false;
};

// Fixed, so that peak_rss_bytes is the same on machines with different memory.
constexpr char kKvCache[] = "1GiB";
constexpr Micros kStopTimeout = 60'000'000;

void Print(const nlohmann::ordered_json& line) { std::cout << line.dump() << std::endl; }

absl::StatusOr<Roofs> MeasureRoofs(const Flags& flags, const std::string& suite) {
  SKIM_ASSIGN_OR_RETURN(const Isa isa, ChooseIsa(flags.isa));
  const int threads = flags.threads > 0 ? flags.threads : static_cast<int>(PhysicalCores().size());
  ThreadPool pool(threads, true);
  const Roofs roofs = {MeasureBf16Flops(pool, isa), MeasureInt8Ops(pool, isa),
                       MeasureReadBandwidth(pool)};
  const nlohmann::ordered_json params = {{"isa", IsaName(isa)}, {"threads", threads}};
  Print(Figure(suite, "roof_bf16_flops", roofs.bf16_flops, "flop/s", params));
  Print(Figure(suite, "roof_int8_ops", roofs.int8_ops, "op/s", params));
  Print(Figure(suite, "roof_read_bytes_per_s", roofs.read_bytes_per_s, "byte/s", params));
  return roofs;
}

absl::StatusOr<std::vector<v1::WeightFormat>> ParseWeights(const std::vector<std::string>& names) {
  std::vector<v1::WeightFormat> formats;
  for (const std::string& name : names) {
    const auto format = ParseWeightFormat(name);
    if (!format) {
      return absl::InvalidArgumentError("--weights: '" + name + "' is not bf16, fp8, int8 or int4");
    }
    formats.push_back(*format);
  }
  return formats;
}

// A daemon of our own and a client of it.
class Served {
 public:
  static absl::StatusOr<std::unique_ptr<Served>> Start(Flags flags, const std::string& weights,
                                                       std::vector<std::string> more) {
    std::unique_ptr<Served> served(new Served());
    flags.daemon.arguments = {"--isa",       flags.isa, "--threads", std::to_string(flags.threads),
                              "--kv-cache",  kKvCache,  "--weights", weights,
                              "--log-level", "warn"};
    std::ranges::move(more, std::back_inserter(flags.daemon.arguments));
    SKIM_ASSIGN_OR_RETURN(served->daemon_, DaemonProcess::Start(flags.daemon));
    ConnectionOptions options;
    options.server = served->daemon_->grpc_address();
    SKIM_ASSIGN_OR_RETURN(served->connection_, Connection::Open(options));
    grpc::ClientContext context;
    v1::GetModelResponse model;
    const grpc::Status asked = served->connection_->stub().GetModel(&context, {}, &model);
    if (!asked.ok()) return absl::UnavailableError(Explain(asked, options.server));
    served->client_ = std::make_unique<BenchClient>(served->connection_.get(), model);
    return served;
  }

  BenchClient* client() { return client_.get(); }
  const DaemonProcess& daemon() const { return *daemon_; }

  absl::Status Stop() {
    SKIM_ASSIGN_OR_RETURN(const int exit, daemon_->Stop(kStopTimeout));
    if (exit == 0) return absl::OkStatus();
    return absl::InternalError("skimd ended with " + std::to_string(exit));
  }

 private:
  Served() = default;

  std::unique_ptr<DaemonProcess> daemon_;
  std::unique_ptr<Connection> connection_;
  std::unique_ptr<BenchClient> client_;
};

absl::Status RunServe(const Flags& flags) {
  SKIM_ASSIGN_OR_RETURN(const auto formats, ParseWeights(flags.weights));
  // Before a daemon runs: the machine's peak must be measured with nobody else on it.
  SKIM_ASSIGN_OR_RETURN(const Roofs roofs, MeasureRoofs(flags, "serve"));
  for (size_t i = 0; i < formats.size(); ++i) {
    // A daemon of its own for each format, so that the memory is that of one.
    SKIM_ASSIGN_OR_RETURN(const auto served, Served::Start(flags, flags.weights[i], {}));
    SKIM_RETURN_IF_ERROR(
        ServeBench(served->client(), formats[i], roofs, flags.repetitions, Print).Run());
    SKIM_ASSIGN_OR_RETURN(const int64_t peak, served->daemon().PeakResidentBytes());
    const v1::GetModelResponse& model = served->client()->model();
    Print(Figure("serve", "peak_rss_bytes", static_cast<double>(peak), "byte",
                 {{"kv_cache", kKvCache},
                  {"model", model.name()},
                  {"backend", model.backend()},
                  {"weights", flags.weights[i]}}));
    SKIM_RETURN_IF_ERROR(served->Stop());
  }
  return absl::OkStatus();
}

absl::Status RunLazy(const Flags& flags) {
  LazyBenchOptions options = flags.lazy;
  if (flags.quick) MakeQuick(&options);
  SKIM_ASSIGN_OR_RETURN(options.weights, ParseWeights(flags.weights));
  std::ranges::sort(options.lengths);
  SKIM_ASSIGN_OR_RETURN(const Roofs roofs, MeasureRoofs(flags, "lazy"));
  // Every length is to be pruned.
  SKIM_ASSIGN_OR_RETURN(const auto served,
                        Served::Start(flags, absl::StrJoin(flags.weights, ","),
                                      {"--lazy-min-tokens", "1", "--max-decode-slowdown",
                                       absl::StrCat(options.max_decode_slowdown)}));
  const auto pages_held = [&]() -> absl::StatusOr<double> {
    SKIM_ASSIGN_OR_RETURN(const MetricValues values,
                          ScrapeMetrics(served->daemon().metrics_address()));
    return values.at("skim_kv_pages{state=\"owned\"}");
  };
  ProgressBar bar;
  LazyBench bench(served->client(), options, roofs, pages_held, Print,
                  [&bar](double share, const std::string& what) { bar.Show(share, what); });
  SKIM_RETURN_IF_ERROR(bench.Run());
  SKIM_RETURN_IF_ERROR(served->Stop());
  std::cerr << bench.Table() << std::flush;
  return absl::OkStatus();
}

// All formats that verify or draft, the former first.
std::vector<std::string> FormatsOf(const Flags& flags) {
  std::vector<std::string> formats = flags.weights;
  for (const std::string& drafter : flags.speculate.drafters) {
    const std::vector<std::string> parts = absl::StrSplit(drafter, ':');
    if (parts.size() > 1 && ParseWeightFormat(parts.back()) &&
        std::ranges::find(formats, parts.back()) == formats.end()) {
      formats.push_back(parts.back());
    }
  }
  return formats;
}

absl::Status RunSpeculate(const Flags& flags) {
  SpeculateBenchOptions options = flags.speculate;
  if (flags.quick) MakeQuick(&options);
  SKIM_ASSIGN_OR_RETURN(options.weights, ParseWeights(flags.weights));
  if (options.narrow_file.empty()) options.narrow_file = flags.daemon.model_dir + "/prompts.jsonl";
  SKIM_ASSIGN_OR_RETURN(const auto served,
                        Served::Start(flags, absl::StrJoin(FormatsOf(flags), ","), {}));
  ProgressBar bar;
  SpeculateBench bench(served->client(), options, Print,
                       [&bar](double share, const std::string& what) { bar.Show(share, what); });
  SKIM_RETURN_IF_ERROR(bench.Run());
  SKIM_RETURN_IF_ERROR(served->Stop());
  std::cerr << bench.table() << std::flush;
  return absl::OkStatus();
}

void AddCommon(CLI::App* command, Flags* flags) {
  command->add_option("--skimd", flags->daemon.skimd, "Path of skimd")->required();
  command->add_option("--model", flags->daemon.model_dir, "Directory of the model")->required();
  command->add_option("--isa", flags->isa, "As of skimd")->capture_default_str();
  command->add_option("--threads", flags->threads, "As of skimd")->check(CLI::Range(0, 1024));
}

void AddList(CLI::App* command, const std::string& name, auto* values, const std::string& help) {
  command->add_option(name, *values, help)
      ->delimiter(',')
      ->allow_extra_args(false)
      ->capture_default_str();
}

CLI::App* AddServe(CLI::App* app, Flags* flags) {
  CLI::App* serve = app->add_subcommand("serve", "The daemon as a user meets it");
  AddCommon(serve, flags);
  flags->weights = {"bf16", "fp8", "int8", "int4"};
  flags->repetitions = 5;
  AddList(serve, "--weights", &flags->weights, "Weight formats to measure, one after the other");
  serve->add_option("--repetitions", flags->repetitions, "Each figure is the median of these")
      ->check(CLI::Range(1, 1000))
      ->capture_default_str();
  return serve;
}

CLI::App* AddLazy(CLI::App* app, Flags* flags) {
  CLI::App* lazy = app->add_subcommand("lazy", "Pruned prompts beside exact ones");
  AddCommon(lazy, flags);
  flags->weights = {"bf16", "int8"};
  AddList(lazy, "--profiles", &flags->lazy.profiles, "Profiles of the server");
  AddList(lazy, "--lengths", &flags->lazy.lengths, "Tokens of the prompts");
  AddList(lazy, "--weights", &flags->weights,
          "Weight formats: all profiles and exact in the first, one profile in the others");
  lazy->add_option("--max-decode-slowdown", flags->lazy.max_decode_slowdown, "As of skimd")
      ->capture_default_str();
  lazy->add_option("--repetitions", flags->lazy.repetitions, "Each figure is the median of these")
      ->check(CLI::Range(1, 1000))
      ->capture_default_str();
  lazy->add_flag("--quick", flags->quick,
                 "One profile, two short lengths, once: shows that it works, measures nothing")
      ->excludes("--profiles")
      ->excludes("--lengths")
      ->excludes("--repetitions");
  return lazy;
}

CLI::App* AddSpeculate(CLI::App* app, Flags* flags) {
  CLI::App* speculate =
      app->add_subcommand("speculate", "Output guessed ahead beside plain decoding");
  AddCommon(speculate, flags);
  flags->weights = {"bf16"};
  SpeculateBenchOptions* options = &flags->speculate;
  AddList(speculate, "--texts", &options->texts,
          "templated (answers repeat the prompt), chat, or "
          "narrow (what a model made by ./run train-layerskip was trained for)");
  speculate->add_option("--prompts", options->narrow_file,
                        "What narrow asks, {\"prompt\": ...} a line; default: prompts.jsonl of the "
                        "model");
  AddList(speculate, "--drafters", &options->drafters, "As --speculation of skim generate");
  AddList(speculate, "--streams", &options->streams, "Requests at once");
  AddList(speculate, "--weights", &flags->weights, "Weight formats that the requests ask for");
  speculate->add_option("--output-tokens", options->output_tokens, "Tokens of an answer, at most")
      ->check(CLI::Range(2, 100'000))
      ->capture_default_str();
  speculate
      ->add_option("--batches", options->batches,
                   "Sets of prompts that are sent one after the other in each repetition")
      ->check(CLI::Range(1, 1000))
      ->capture_default_str();
  speculate->add_option("--max-draft-tokens", options->max_draft_tokens, "As of skim generate");
  speculate->add_option("--repetitions", options->repetitions, "Each rate is the median of these")
      ->check(CLI::Range(1, 1000))
      ->capture_default_str();
  speculate
      ->add_flag(
          "--quick", flags->quick,
          "Short answers to one and two streams, once: shows that it works, measures nothing")
      ->excludes("--streams")
      ->excludes("--output-tokens")
      ->excludes("--repetitions");
  return speculate;
}

}  // namespace
}  // namespace skim

int main(int argc, char** argv) {
  CLI::App app("Measures skimd over gRPC; prints one JSON object per line.");
  app.require_subcommand(1);
  skim::Flags serve_flags, lazy_flags, speculate_flags;
  const CLI::App* serve = skim::AddServe(&app, &serve_flags);
  const CLI::App* lazy = skim::AddLazy(&app, &lazy_flags);
  skim::AddSpeculate(&app, &speculate_flags);
  CLI11_PARSE(app, argc, argv);
  const absl::Status status = *serve  ? skim::RunServe(serve_flags)
                              : *lazy ? skim::RunLazy(lazy_flags)
                                      : skim::RunSpeculate(speculate_flags);
  if (status.ok()) return 0;
  std::cerr << "skim-bench: " << status.message() << std::endl;
  return 1;
}
