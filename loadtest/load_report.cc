#include "loadtest/load_report.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "cli/errors.h"
#include "loadtest/load_runner.h"
#include "loadtest/token_gaps.h"

namespace skim {
namespace {

constexpr size_t kMaxExamples = 10;

double Milliseconds(Micros time) { return static_cast<double>(time) * 1e-3; }

void AddLatencies(const StreamRecord& record, LoadReport* report) {
  report->e2e_ms.Add(Milliseconds(record.ended - record.planned));
  report->queue_ms.Add(record.final->timings().queue_ms());
  const std::vector<Micros>& times = record.token_times;
  if (times.empty()) return;
  report->ttft_ms.Add(Milliseconds(times.front() - record.planned));
  for (const TokenGap& gap : TokenGaps(times)) report->inter_token_ms.Add(gap.ms);
}

void AddOutcome(const StreamRecord& record, LoadReport* report) {
  if (record.code != grpc::StatusCode::OK) ++report->errors[std::string(CodeName(record.code))];
  if (IsFailure(record)) {
    ++report->failed;
  } else if (record.Finished()) {
    ++report->finished;
  } else if (record.behaviour == Behaviour::kMalformed) {
    ++report->refused;
  } else if (record.behaviour == Behaviour::kSlowReader) {
    ++report->slow;
  } else {
    ++report->cancelled;
  }
  for (const Fault& fault : record.faults) {
    report->faults[std::string(FaultName(fault.kind))] += fault.count;
    if (report->examples.size() < kMaxExamples) {
      report->examples.push_back(
          absl::StrCat(std::string(FaultName(fault.kind)), " (", fault.count, "): ", fault.detail));
    }
  }
}

using NamedSamples = std::pair<const char*, const Samples*>;

std::vector<NamedSamples> Latencies(const LoadReport& report) {
  return {{"ttft_ms", &report.ttft_ms},
          {"inter_token_ms", &report.inter_token_ms},
          {"e2e_ms", &report.e2e_ms},
          {"queue_ms", &report.queue_ms},
          {"send_late_ms", &report.late_ms}};
}

double PerSecond(int64_t count, const LoadReport& report) {
  return report.seconds > 0 ? static_cast<double>(count) / report.seconds : 0;
}

}  // namespace

LoadReport MakeReport(const std::vector<StreamRecord>& records) {
  LoadReport report;
  report.requests = static_cast<int64_t>(records.size());
  Micros begin = kNever;
  Micros end = 0;
  for (const StreamRecord& record : records) {
    begin = std::min(begin, record.started);
    end = std::max(end, record.ended);
    AddOutcome(record, &report);
    report.late_ms.Add(Milliseconds(record.started - record.planned));
    report.generated_tokens += static_cast<int64_t>(record.token_times.size());
    if (!record.Finished()) continue;
    report.prompt_tokens += record.final->usage().prompt_tokens();
    if (record.behaviour == Behaviour::kNormal) AddLatencies(record, &report);
  }
  if (!records.empty()) report.seconds = Milliseconds(end - begin) * 1e-3;
  return report;
}

std::string ToTable(const LoadReport& report) {
  std::string out = absl::StrFormat(
      "requests %d: finished %d, cancelled %d, refused as malformed %d, slow readers ended %d, "
      "failed %d\n",
      report.requests, report.finished, report.cancelled, report.refused, report.slow,
      report.failed);
  absl::StrAppendFormat(&out, "%.1f s: %.2f requests/s, %.1f prompt tokens/s, %.1f tokens/s\n\n",
                        report.seconds, PerSecond(report.requests, report),
                        PerSecond(report.prompt_tokens, report),
                        PerSecond(report.generated_tokens, report));
  absl::StrAppendFormat(&out, "%-16s %8s %10s %10s %10s %10s %10s\n", "", "count", "mean", "p50",
                        "p90", "p99", "max");
  for (const auto& [name, samples] : Latencies(report)) {
    const Samples::Summary s = samples->Summarize();
    absl::StrAppendFormat(&out, "%-16s %8d %10.2f %10.2f %10.2f %10.2f %10.2f\n", name, s.count,
                          s.mean, s.p50, s.p90, s.p99, s.max);
  }
  for (const auto& [code, count] : report.errors) {
    absl::StrAppendFormat(&out, "status %s: %d\n", code, count);
  }
  for (const auto& [kind, count] : report.faults) {
    absl::StrAppendFormat(&out, "FAULT %s: %d\n", kind, count);
  }
  for (const std::string& example : report.examples) {
    absl::StrAppend(&out, "  ", example, "\n");
  }
  return out;
}

nlohmann::ordered_json ToJson(const LoadReport& report) {
  nlohmann::ordered_json json = {
      {"requests", report.requests},
      {"finished", report.finished},
      {"cancelled", report.cancelled},
      {"refused_malformed", report.refused},
      {"slow_readers_ended", report.slow},
      {"failed", report.failed},
      {"errors", report.errors},
      {"faults", report.faults},
      {"seconds", report.seconds},
      {"prompt_tokens", report.prompt_tokens},
      {"generated_tokens", report.generated_tokens},
      {"requests_per_s", PerSecond(report.requests, report)},
      {"prompt_tokens_per_s", PerSecond(report.prompt_tokens, report)},
      {"generated_tokens_per_s", PerSecond(report.generated_tokens, report)},
  };
  for (const auto& [name, samples] : Latencies(report)) {
    const Samples::Summary s = samples->Summarize();
    json[name] = {{"count", s.count}, {"mean", s.mean}, {"p50", s.p50},
                  {"p90", s.p90},     {"p99", s.p99},   {"max", s.max}};
  }
  return json;
}

}  // namespace skim
