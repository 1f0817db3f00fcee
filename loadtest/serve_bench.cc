#include "loadtest/serve_bench.h"

#include <algorithm>
#include <utility>

#include "base/status_macros.h"
#include "cli/weight_format_name.h"
#include "loadtest/bench_figure.h"
#include "loadtest/load_report.h"
#include "loadtest/samples.h"

namespace skim {
namespace {

constexpr int64_t kPrefillTokens = 2048;
constexpr int64_t kDecodePromptTokens = 64;
constexpr int64_t kDecodeTokens = 128;
constexpr int64_t kBatchStreams = 16;
constexpr int64_t kBatchPromptTokens = 512;
constexpr int64_t kBatchTokens = 128;

double Seconds(Micros time) { return static_cast<double>(time) * 1e-6; }

}  // namespace

absl::StatusOr<double> DecodeRate(const std::vector<StreamRecord>& records) {
  Micros begin = 0;
  Micros end = kNever;
  for (const StreamRecord& record : records) {
    if (record.token_times.empty()) return absl::InternalError("a stream had no tokens");
    begin = std::max(begin, record.token_times.front());
    end = std::min(end, record.token_times.back());
  }
  if (records.empty() || begin >= end) {
    return absl::InternalError("the streams never decoded all at once");
  }
  int64_t tokens = 0;
  for (const StreamRecord& record : records) {
    tokens += std::count_if(record.token_times.begin(), record.token_times.end(),
                            [&](Micros time) { return time > begin && time <= end; });
  }
  return static_cast<double>(tokens) / Seconds(end - begin);
}

ServeBench::ServeBench(BenchClient* client, v1::WeightFormat weights, const Roofs& roofs,
                       int repetitions, Emit emit)
    : client_(client),
      weights_(weights),
      cost_(client->model(), weights),
      roofs_(roofs),
      repetitions_(repetitions),
      emit_(std::move(emit)) {}

absl::StatusOr<std::vector<StreamRecord>> ServeBench::Streams(int64_t streams,
                                                              int64_t prompt_tokens,
                                                              int64_t output_tokens) {
  return client_->Run({.streams = streams,
                       .prompt_tokens = prompt_tokens,
                       .output_tokens = output_tokens,
                       .weights = weights_});
}

absl::StatusOr<double> ServeBench::Repeat(const std::function<absl::StatusOr<double>()>& once) {
  Samples samples;
  for (int i = 0; i < repetitions_; ++i) {
    SKIM_ASSIGN_OR_RETURN(const double value, once());
    samples.Add(value);
  }
  return samples.Median();
}

void ServeBench::EmitFigure(const std::string& name, double value, const std::string& unit,
                            nlohmann::ordered_json params, double roof_share) const {
  params["weights"] = WeightFormatName(weights_);
  emit_(Figure("serve", name, value, unit, std::move(params), roof_share));
}

absl::Status ServeBench::Prefill() {
  SKIM_ASSIGN_OR_RETURN(const double seconds, Repeat([this]() -> absl::StatusOr<double> {
                          SKIM_ASSIGN_OR_RETURN(const auto records, Streams(1, kPrefillTokens, 1));
                          return FirstTokenSeconds(records.front());
                        }));
  EmitFigure("prefill_tokens_per_s", kPrefillTokens / seconds, "token/s",
             {{"prompt_tokens", kPrefillTokens}},
             cost_.PrefillSeconds(kPrefillTokens, roofs_) / seconds);
  return absl::OkStatus();
}

absl::Status ServeBench::TimeToFirstToken(int64_t prompt_tokens) {
  SKIM_ASSIGN_OR_RETURN(const double seconds, Repeat([&]() -> absl::StatusOr<double> {
                          SKIM_ASSIGN_OR_RETURN(const auto records, Streams(1, prompt_tokens, 1));
                          return FirstTokenSeconds(records.front());
                        }));
  EmitFigure("ttft_ms", seconds * 1e3, "ms", {{"prompt_tokens", prompt_tokens}},
             cost_.PrefillSeconds(static_cast<double>(prompt_tokens), roofs_) / seconds);
  return absl::OkStatus();
}

absl::Status ServeBench::Decode(int64_t streams) {
  SKIM_ASSIGN_OR_RETURN(const double tokens_per_s, Repeat([&]() -> absl::StatusOr<double> {
                          SKIM_ASSIGN_OR_RETURN(
                              const auto records,
                              Streams(streams, kDecodePromptTokens, kDecodeTokens));
                          return DecodeRate(records);
                        }));
  const double steps_per_s = tokens_per_s / static_cast<double>(streams);
  EmitFigure("decode_tokens_per_s", tokens_per_s, "token/s",
             {{"streams", streams},
              {"prompt_tokens", kDecodePromptTokens},
              {"output_tokens", kDecodeTokens}},
             cost_.StepSeconds(roofs_) * steps_per_s);
  return absl::OkStatus();
}

absl::Status ServeBench::Batch() {
  SKIM_ASSIGN_OR_RETURN(const double seconds, Repeat([this]() -> absl::StatusOr<double> {
                          SKIM_ASSIGN_OR_RETURN(
                              const auto records,
                              Streams(kBatchStreams, kBatchPromptTokens, kBatchTokens));
                          return MakeReport(records).seconds;
                        }));
  const double least = kBatchStreams * cost_.PrefillSeconds(kBatchPromptTokens, roofs_) +
                       (kBatchTokens - 1) * cost_.StepSeconds(roofs_);
  EmitFigure("batch_tokens_per_s", kBatchStreams * kBatchTokens / seconds, "token/s",
             {{"streams", kBatchStreams},
              {"prompt_tokens", kBatchPromptTokens},
              {"output_tokens", kBatchTokens}},
             least / seconds);
  return absl::OkStatus();
}

absl::Status ServeBench::Run() {
  // Touches every page of the weights and starts every thread.
  SKIM_RETURN_IF_ERROR(Streams(4, 256, 16).status());
  SKIM_RETURN_IF_ERROR(Prefill());
  for (const int64_t prompt_tokens : {128, 1024, 4096}) {
    SKIM_RETURN_IF_ERROR(TimeToFirstToken(prompt_tokens));
  }
  for (const int64_t streams : {1, 4, 16}) SKIM_RETURN_IF_ERROR(Decode(streams));
  return Batch();
}

}  // namespace skim
