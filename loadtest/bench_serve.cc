// skim-bench: starts a daemon, measures it over gRPC and the machine under it, and prints one
// JSON object per line.
#include <CLI/CLI.hpp>
#include <iostream>

#include "base/status_macros.h"
#include "cli/errors.h"
#include "cli/weight_format_name.h"
#include "kernels/bench/roofs.h"
#include "kernels/cpu/cores.h"
#include "loadtest/daemon_process.h"
#include "loadtest/serve_bench.h"

namespace skim {
namespace {

struct Flags {
  DaemonOptions daemon;
  std::string isa = "auto";
  int threads = 0;
  std::vector<std::string> weights = {"bf16", "fp8", "int8", "int4"};
  int repetitions = 5;
};

// Fixed, so that peak_rss_bytes is the same on machines with different memory.
constexpr char kKvCache[] = "1GiB";
constexpr Micros kStopTimeout = 60'000'000;

void Print(const nlohmann::ordered_json& line) { std::cout << line.dump() << std::endl; }

absl::StatusOr<Roofs> MeasureRoofs(const Flags& flags) {
  SKIM_ASSIGN_OR_RETURN(const Isa isa, ChooseIsa(flags.isa));
  const int threads = flags.threads > 0 ? flags.threads : static_cast<int>(PhysicalCores().size());
  ThreadPool pool(threads, true);
  const Roofs roofs = {MeasureBf16Flops(pool, isa), MeasureInt8Ops(pool, isa),
                       MeasureReadBandwidth(pool)};
  const nlohmann::ordered_json params = {{"isa", IsaName(isa)}, {"threads", threads}};
  Print(Figure("roof_bf16_flops", roofs.bf16_flops, "flop/s", params));
  Print(Figure("roof_int8_ops", roofs.int8_ops, "op/s", params));
  Print(Figure("roof_read_bytes_per_s", roofs.read_bytes_per_s, "byte/s", params));
  return roofs;
}

// A daemon of its own for each format, so that the memory is that of one.
absl::Status MeasureFormat(Flags flags, const std::string& weights, const Roofs& roofs) {
  const auto format = ParseWeightFormat(weights);
  if (!format) {
    return absl::InvalidArgumentError("--weights: '" + weights +
                                      "' is not bf16, fp8, int8 or int4");
  }
  flags.daemon.arguments = {"--isa",       flags.isa, "--threads", std::to_string(flags.threads),
                            "--kv-cache",  kKvCache,  "--weights", weights,
                            "--log-level", "warn"};
  SKIM_ASSIGN_OR_RETURN(const auto daemon, DaemonProcess::Start(flags.daemon));
  ConnectionOptions options;
  options.server = daemon->grpc_address();
  SKIM_ASSIGN_OR_RETURN(const auto connection, Connection::Open(options));
  grpc::ClientContext context;
  v1::GetModelResponse model;
  const grpc::Status asked = connection->stub().GetModel(&context, {}, &model);
  if (!asked.ok()) return absl::UnavailableError(Explain(asked, options.server));

  SKIM_RETURN_IF_ERROR(
      ServeBench(connection.get(), model, *format, roofs, flags.repetitions, Print).Run());
  SKIM_ASSIGN_OR_RETURN(const int64_t peak, daemon->PeakResidentBytes());
  Print(Figure("peak_rss_bytes", static_cast<double>(peak), "byte",
               {{"kv_cache", kKvCache},
                {"model", model.name()},
                {"backend", model.backend()},
                {"weights", weights}}));
  SKIM_ASSIGN_OR_RETURN(const int exit, daemon->Stop(kStopTimeout));
  if (exit == 0) return absl::OkStatus();
  return absl::InternalError("skimd ended with " + std::to_string(exit));
}

absl::Status Run(const Flags& flags) {
  // Before a daemon runs: the machine's peak must be measured with nobody else on it.
  SKIM_ASSIGN_OR_RETURN(const Roofs roofs, MeasureRoofs(flags));
  for (const std::string& weights : flags.weights) {
    SKIM_RETURN_IF_ERROR(MeasureFormat(flags, weights, roofs));
  }
  return absl::OkStatus();
}

}  // namespace
}  // namespace skim

int main(int argc, char** argv) {
  CLI::App app("Measures skimd over gRPC; prints one JSON object per line.");
  skim::Flags flags;
  app.add_option("--skimd", flags.daemon.skimd, "Path of skimd")->required();
  app.add_option("--model", flags.daemon.model_dir, "Directory of the model")->required();
  app.add_option("--isa", flags.isa, "As of skimd")->capture_default_str();
  app.add_option("--threads", flags.threads, "As of skimd")->check(CLI::Range(0, 1024));
  app.add_option("--weights", flags.weights, "Weight formats to measure, one after the other")
      ->delimiter(',')
      ->allow_extra_args(false)
      ->capture_default_str();
  app.add_option("--repetitions", flags.repetitions, "Each figure is the median of these")
      ->check(CLI::Range(1, 1000))
      ->capture_default_str();
  CLI11_PARSE(app, argc, argv);
  const absl::Status status = skim::Run(flags);
  if (status.ok()) return 0;
  std::cerr << "skim-bench: " << status.message() << std::endl;
  return 1;
}
