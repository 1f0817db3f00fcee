#include "loadtest/bench_client.h"

#include <utility>

#include "base/status_macros.h"
#include "loadtest/load_report.h"
#include "loadtest/load_runner.h"
#include "loadtest/workload.h"

namespace skim {
namespace {

absl::StatusOr<LengthDistribution> Fixed(int64_t tokens) {
  return LengthDistribution::Parse(std::to_string(tokens));
}

absl::Status CheckPruned(const StreamRecord& record, const BenchWork& work) {
  if (!record.final) return absl::OkStatus();  // went away early, as it was told to
  const bool pruned = record.final->prefill().mode() == v1::PrefillOutcome::MODE_LAZY;
  if (!work.prefill.empty() && !pruned) {
    return absl::InternalError("a prompt of " + std::to_string(work.prompt_tokens) +
                               " tokens was not pruned by '" + work.prefill + "'");
  }
  return absl::OkStatus();
}

}  // namespace

double FirstTokenSeconds(const StreamRecord& record) {
  return static_cast<double>(record.token_times.front() - record.started) * 1e-6;
}

BenchClient::BenchClient(const Connection* connection, v1::GetModelResponse model)
    : connection_(connection), model_(std::move(model)) {}

absl::StatusOr<std::vector<StreamRecord>> BenchClient::Send(
    int64_t streams, const std::function<PlannedRequest()>& next) {
  LoadOptions load;
  load.requests = load.concurrency = streams;
  const std::atomic<bool> never = false;
  LoadRunner runner(connection_, connection_, &clock_);
  auto records = runner.Run(load, next, never, [](const LoadProgress&) {});
  const LoadReport report = MakeReport(records);
  if (!report.Clean()) return absl::InternalError("streams failed:\n" + ToTable(report));
  for (const StreamRecord& record : records) {
    if (record.token_times.empty()) return absl::InternalError("a stream had no tokens");
    if (record.final && record.final->usage().cached_tokens() > 0) {
      return absl::InternalError("a prompt that nobody sent before was cached");
    }
  }
  return records;
}

absl::StatusOr<std::vector<StreamRecord>> BenchClient::Run(
    const std::vector<v1::GenerateRequest>& requests) {
  auto next = requests.begin();
  return Send(static_cast<int64_t>(requests.size()), [&] {
    PlannedRequest planned;
    planned.request = *next++;
    return planned;
  });
}

absl::StatusOr<std::vector<StreamRecord>> BenchClient::Run(const BenchWork& work) {
  WorkloadOptions options;
  SKIM_ASSIGN_OR_RETURN(options.prompt_tokens, Fixed(work.prompt_tokens));
  SKIM_ASSIGN_OR_RETURN(options.output_tokens, Fixed(work.output_tokens));
  options.vocabulary = model_.vocabulary();
  options.max_context = model_.max_context();
  options.seed = seed_++;
  options.weights = {work.weights};
  options.prefill = work.prefill;
  SKIM_ASSIGN_OR_RETURN(auto workload, Workload::Make(options));
  const auto next = [&] {
    PlannedRequest planned = workload.Next();
    if (work.stays) {
      planned.behaviour = Behaviour::kCancel;
      planned.stays = work.stays;
    }
    return planned;
  };
  SKIM_ASSIGN_OR_RETURN(auto records, Send(work.streams, next));
  for (const StreamRecord& record : records) SKIM_RETURN_IF_ERROR(CheckPruned(record, work));
  return records;
}

}  // namespace skim
