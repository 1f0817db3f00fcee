// skim-load: sends a daemon the requests of many users and tells how it fared.
#include <CLI/CLI.hpp>
#include <atomic>
#include <fstream>
#include <iostream>
#include <iterator>

#include "absl/strings/str_format.h"
#include "base/status_macros.h"
#include "cli/connection_flags.h"
#include "cli/errors.h"
#include "cli/interrupts.h"
#include "cli/progress_bar.h"
#include "cli/speculation_flag.h"
#include "cli/weight_format_name.h"
#include "loadtest/load_report.h"
#include "loadtest/load_runner.h"
#include "loadtest/workload.h"

namespace skim {
namespace {

constexpr char kFooter[] =
    "Lengths are N, uniform:MIN:MAX or lognormal:MEDIAN:SIGMA:MAX, in tokens.\n"
    "Exit codes: 0 every request ended as it should, 1 some did not, 2 wrong flags, 3 no server.";

struct Flags {
  ConnectionOptions connection;
  LoadOptions load;
  WorkloadOptions workload;
  std::string prompt_tokens = "128";
  std::string output_tokens = "64";
  std::string text_file;
  double slow_delay_ms = 200;
  std::vector<std::string> weights;
  std::string speculation = "off";
  bool json = false;
};

void Register(CLI::App* app, Flags* flags) {
  const CLI::Range share(0.0, 1.0);
  RegisterConnectionFlags(app, &flags->connection);
  auto* rate = app->add_option("--rate", flags->load.rate_per_s,
                               "Open loop: Poisson arrivals, this many a second");
  rate->check(CLI::PositiveNumber);
  app->add_option("--concurrency", flags->load.concurrency, "Closed loop: streams in flight")
      ->check(CLI::Range(1, 100'000))
      ->excludes(rate);
  app->add_option("--requests", flags->load.requests, "Stop after this many")
      ->check(CLI::PositiveNumber);
  app->add_option("--duration", flags->load.duration_s, "Start no request after these seconds")
      ->check(CLI::PositiveNumber);
  app->add_option("--prompt-tokens", flags->prompt_tokens, "Length of prompts")
      ->capture_default_str();
  app->add_option("--output-tokens", flags->output_tokens, "Length of outputs, met exactly")
      ->capture_default_str();
  app->add_option("--text-file", flags->text_file,
                  "Take prompts from this text; random token ids if not given");
  app->add_option("--shared-prefix", flags->workload.shared_prefix_tokens,
                  "The same first tokens for all prompts, to meet the prefix cache")
      ->check(CLI::NonNegativeNumber);
  app->add_option("--cancel-share", flags->workload.cancel_share, "Of the requests")->check(share);
  app->add_option("--slow-share", flags->workload.slow_share, "Slow readers")->check(share);
  app->add_option("--slow-delay-ms", flags->slow_delay_ms, "Before each of their messages")
      ->check(CLI::Range(0.0, 60'000.0))
      ->capture_default_str();
  app->add_option("--malformed-share", flags->workload.malformed_share, "Must be refused")
      ->check(share);
  app->add_option("--temperature", flags->workload.temperature, "0 = greedy")
      ->capture_default_str();
  app->add_option("--prefill", flags->workload.prefill,
                  "Profile by which the server is to prune prompts; exact if not given");
  app->add_option("--speculation", flags->speculation, kSpeculationHelp)->capture_default_str();
  app->add_option("--weights", flags->weights,
                  "Weight formats to ask for in turn, as in bf16,int8; the server's default if "
                  "not given")
      ->delimiter(',')
      ->allow_extra_args(false);
  app->add_option("--seed", flags->workload.seed, "Of everything random")->capture_default_str();
  app->add_flag("--json", flags->json, "Print the report as JSON");
}

// Learns vocabulary and context from the server and cuts the text file into tokens.
grpc::Status AskServer(const Connection& connection, const std::string& text,
                       WorkloadOptions* options) {
  v1::GetModelResponse model;
  grpc::ClientContext model_context;
  connection.Prepare(&model_context);
  const grpc::Status status = connection.stub().GetModel(&model_context, {}, &model);
  if (!status.ok()) return status;
  options->vocabulary = model.vocabulary();
  options->max_context = model.max_context();
  if (text.empty()) return grpc::Status::OK;

  v1::TokenizeRequest request;
  request.set_text(text);
  v1::TokenizeResponse response;
  grpc::ClientContext context;
  connection.Prepare(&context);
  const grpc::Status tokenized = connection.stub().Tokenize(&context, request, &response);
  options->text_ids.assign(response.ids().begin(), response.ids().end());
  return tokenized;
}

absl::Status Complete(Flags* flags, std::string* text) {
  if (flags->load.requests == 0 && flags->load.duration_s == 0) {
    return absl::InvalidArgumentError("give --requests, --duration or both");
  }
  SKIM_ASSIGN_OR_RETURN(flags->workload.prompt_tokens,
                        LengthDistribution::Parse(flags->prompt_tokens));
  SKIM_ASSIGN_OR_RETURN(flags->workload.output_tokens,
                        LengthDistribution::Parse(flags->output_tokens));
  for (const std::string& name : flags->weights) {
    const auto format = ParseWeightFormat(name);
    if (!format) {
      return absl::InvalidArgumentError("--weights: '" + name + "' is not bf16, fp8, int8 or int4");
    }
    flags->workload.weights.push_back(*format);
  }
  SKIM_RETURN_IF_ERROR(ParseSpeculation(flags->speculation, &flags->workload.speculation));
  flags->load.seed = flags->workload.seed;
  flags->workload.read_delay = static_cast<Micros>(flags->slow_delay_ms * 1e3);
  if (flags->text_file.empty()) return absl::OkStatus();
  std::ifstream file(flags->text_file, std::ios::binary);
  text->assign(std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>());
  if (!file || text->empty()) {
    return absl::InvalidArgumentError("--text-file: cannot read '" + flags->text_file +
                                      "' or it is empty");
  }
  return absl::OkStatus();
}

int Complain(const absl::Status& status) {
  std::cerr << "skim-load: " << status.message() << std::endl;
  return kExitBadRequest;
}

int Run(Flags* flags) {
  std::string text;
  if (const absl::Status status = Complete(flags, &text); !status.ok()) return Complain(status);
  std::atomic<bool> stop = false;
  Interrupts interrupts([&stop] {
    // The second Ctrl-C does not wait for the streams that are running.
    if (stop.exchange(true)) _exit(kExitInterrupted);
  });
  const auto connection = Connection::Open(flags->connection);
  if (!connection.ok()) return Complain(connection.status());
  const auto slow = Connection::Open(flags->connection, SlowReaderChannel());
  if (!slow.ok()) return Complain(slow.status());
  if (const grpc::Status status = AskServer(**connection, text, &flags->workload); !status.ok()) {
    std::cerr << "skim-load: " << Explain(status, flags->connection.server) << std::endl;
    return ExitCodeOf(status);
  }
  auto workload = Workload::Make(flags->workload);
  if (!workload.ok()) return Complain(workload.status());

  const SteadyClock clock;
  LoadRunner runner(connection->get(), slow->get(), &clock);
  std::vector<StreamRecord> records;
  {
    ProgressBar bar;
    records = runner.Run(
        flags->load, [&] { return workload->Next(); }, stop,
        [&bar](const LoadProgress& progress) {
          bar.Show(progress.share,
                   absl::StrFormat("%d started, %d ended, %d failed", progress.started,
                                   progress.ended, progress.failed));
        });
  }
  const LoadReport report = MakeReport(records);
  std::cout << (flags->json ? ToJson(report).dump(2) + "\n" : ToTable(report));
  return report.Clean() ? kExitOk : kExitFailed;
}

}  // namespace
}  // namespace skim

int main(int argc, char** argv) {
  CLI::App app("Loads skimd with many streams and checks every token.");
  app.footer(skim::kFooter);
  skim::Flags flags;
  skim::Register(&app, &flags);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? skim::kExitOk : skim::kExitBadRequest;
  }
  return skim::Run(&flags);
}
