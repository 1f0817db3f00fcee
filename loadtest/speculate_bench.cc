#include "loadtest/speculate_bench.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/status_macros.h"
#include "cli/prompt_file.h"
#include "cli/speculation_flag.h"
#include "cli/weight_format_name.h"
#include "loadtest/bench_figure.h"
#include "loadtest/speculate_texts.h"

namespace skim {
namespace {

constexpr char kOff[] = "off";
constexpr char kLookup[] = "lookup";
constexpr char kNarrow[] = "narrow";

// From the first first token to the last last one.
double DecodeSeconds(const std::vector<StreamRecord>& records) {
  Micros begin = kNever, end = 0;
  for (const StreamRecord& record : records) {
    begin = std::min(begin, record.token_times.front());
    end = std::max(end, record.token_times.back());
  }
  return static_cast<double>(end - begin) * 1e-6;
}

double DecodedTokens(const std::vector<StreamRecord>& records) {
  double tokens = 0;
  for (const StreamRecord& record : records) {
    tokens += static_cast<double>(record.token_times.size() - 1);
  }
  return tokens;
}

}  // namespace

void MakeQuick(SpeculateBenchOptions* options) {
  options->streams = {1, 2};
  options->output_tokens = 24;
  options->repetitions = 1;
}

void DraftedWork::Add(const std::vector<StreamRecord>& records) {
  tokens += DecodedTokens(records);
  seconds += DecodeSeconds(records);
  for (const StreamRecord& record : records) {
    for (const v1::SpeculationOutcome::Source& source : record.final->speculation().sources()) {
      rounds += source.rounds();
      drafted += source.draft_tokens();
      accepted += source.accepted_tokens();
      if (source.draft_rows() > 0) draft_rows[source.weights()] += source.draft_rows();
    }
  }
}

void DraftedWork::Add(const DraftedWork& other) {
  tokens += other.tokens;
  seconds += other.seconds;
  rounds += other.rounds;
  drafted += other.drafted;
  accepted += other.accepted;
  for (const auto& [format, rows] : other.draft_rows) draft_rows[format] += rows;
}

SpeculateBench::SpeculateBench(BenchClient* client, SpeculateBenchOptions options, Emit emit,
                               Progress progress)
    : client_(client),
      options_(std::move(options)),
      emit_(std::move(emit)),
      progress_(std::move(progress)) {}

absl::StatusOr<v1::Speculation> SpeculateBench::SpeculationOf(const std::string& drafter) const {
  v1::Speculation speculation;
  if (absl::Status status = ParseSpeculation(drafter, &speculation); !status.ok()) {
    return absl::InvalidArgumentError("--drafters: '" + drafter + "' is no drafter");
  }
  if (options_.max_draft_tokens > 0 && drafter != kOff) {
    speculation.set_max_draft_tokens(options_.max_draft_tokens);
  }
  return speculation;
}

absl::Status SpeculateBench::ReadTexts() {
  for (const std::string& text : options_.texts) {
    if (text == kNarrow) {
      SKIM_ASSIGN_OR_RETURN(prompts_[text], ReadPrompts(options_.narrow_file));
    } else {
      prompts_[text] = SpeculateText(text);
    }
    if (prompts_.at(text).empty()) {
      return absl::InvalidArgumentError("--texts: '" + text + "' is not templated, chat or narrow");
    }
  }
  return absl::OkStatus();
}

absl::Status SpeculateBench::Check() const {
  if (options_.texts.empty() || options_.drafters.empty() || options_.streams.empty() ||
      options_.weights.empty()) {
    return absl::InvalidArgumentError(
        "--texts, --drafters, --streams and --weights must not be empty");
  }
  for (const std::string& drafter : options_.drafters) {
    SKIM_RETURN_IF_ERROR(SpeculationOf(drafter).status());
    if (drafter == kOff) return absl::InvalidArgumentError("--drafters: off always runs");
  }
  for (const int64_t streams : options_.streams) {
    if (streams < 1) return absl::InvalidArgumentError("--streams: must be at least 1");
  }
  if (!client_->model().has_chat_template()) {
    return absl::InvalidArgumentError("--model: has no chat template, and these prompts need one");
  }
  return absl::OkStatus();
}

std::vector<v1::GenerateRequest> SpeculateBench::RequestsOf(const Case& which, int64_t batch,
                                                            const v1::Speculation& speculation) {
  const std::vector<std::string>& prompts = prompts_.at(which.text);
  std::vector<v1::GenerateRequest> requests;
  for (int64_t i = 0; i < which.streams; ++i) {
    v1::GenerateRequest& request = requests.emplace_back();
    v1::Message* message = request.mutable_chat()->add_messages();
    message->set_role("user");
    message->set_content(prompts[static_cast<size_t>(batch * which.streams + i) % prompts.size()]);
    request.mutable_sampling()->set_temperature(0);
    request.mutable_sampling()->set_max_tokens(static_cast<uint32_t>(options_.output_tokens));
    request.set_weights(which.weights);
    // Nobody's prompt is found in the cache.
    request.set_cache_salt(absl::StrCat("speculate-", sent_++));
    *request.mutable_speculation() = speculation;
  }
  return requests;
}

absl::StatusOr<DraftedWork> SpeculateBench::RunBatches(const Case& which,
                                                       const std::string& drafter,
                                                       std::vector<std::vector<uint32_t>>* told) {
  SKIM_ASSIGN_OR_RETURN(const v1::Speculation speculation, SpeculationOf(drafter));
  DraftedWork work;
  for (int64_t batch = 0; batch < options_.batches; ++batch) {
    SKIM_ASSIGN_OR_RETURN(const auto records, client_->Run(RequestsOf(which, batch, speculation)));
    const size_t first = told->size();
    for (const StreamRecord& record : records) told->push_back(record.token_ids);
    // Streams end in any order.
    std::sort(told->begin() + static_cast<std::ptrdiff_t>(first), told->end());
    work.Add(records);
  }
  return work;
}

absl::Status SpeculateBench::RunCase(const Case& which) {
  std::vector<std::string> drafters = {kOff};
  drafters.insert(drafters.end(), options_.drafters.begin(), options_.drafters.end());
  std::map<std::string, Measured> measured;
  std::vector<std::vector<uint32_t>> answers;
  for (int i = 0; i < options_.repetitions; ++i) {
    for (const std::string& drafter : drafters) {
      std::vector<std::vector<uint32_t>> told;
      SKIM_ASSIGN_OR_RETURN(const DraftedWork work, RunBatches(which, drafter, &told));
      if (answers.empty()) answers = told;
      if (told != answers) {
        return absl::InternalError("answers drafted by " + drafter + " are not those without");
      }
      if (work.tokens < 1 || work.seconds <= 0) {
        return absl::InternalError("the model answers " + which.text + " with too little");
      }
      measured[drafter].tokens_per_s.Add(work.tokens / work.seconds);
      measured[drafter].work.Add(work);
      const auto sets = options_.texts.size() * options_.streams.size() * options_.weights.size() *
                        static_cast<size_t>(options_.repetitions) * drafters.size();
      progress_(static_cast<double>(++done_) / static_cast<double>(sets),
                absl::StrCat(which.text, ", ", which.streams, " streams"));
    }
  }
  for (const std::string& drafter : drafters) {
    EmitFigures(which, drafter, measured.at(kOff), measured.at(drafter));
  }
  return absl::OkStatus();
}

double SpeculateBench::PredictSpeedup(const DraftedWork& work, v1::WeightFormat weights,
                                      const v1::Speculation& speculation) const {
  const v1::Speculation::SelfDraft& self = speculation.self();
  const double layers = (self.has_exit_layer() ? self.exit_layer() : client_->model().layers()) -
                        static_cast<double>(self.skipped_layers_size());
  const double step = ServeCost(client_->model(), weights).StepBytes();
  double cost = work.steps();
  for (const auto& [format, rows] : work.draft_rows) {
    const uint64_t own = speculation.has_draft_model() ? client_->model().draft_model_step_bytes()
                                                       : client_->model().draft_head_bytes();
    const bool by_own = format == v1::WEIGHT_FORMAT_UNSPECIFIED;  // weights, not the model's
    const double bytes =
        by_own ? static_cast<double>(own) : ServeCost(client_->model(), format).StepBytes(layers);
    cost += rows * bytes / step;
  }
  return work.tokens / cost;
}

void SpeculateBench::EmitFigures(const Case& which, const std::string& drafter, const Measured& off,
                                 const Measured& measured) {
  const nlohmann::ordered_json params = {{"text", which.text},
                                         {"drafter", drafter},
                                         {"streams", which.streams},
                                         {"weights", WeightFormatName(which.weights)},
                                         {"model", client_->model().name()}};
  const auto emit = [&](const char* name, double value, const char* unit) {
    emit_(Figure("speculate", name, value, unit, params));
  };
  const double rate = measured.tokens_per_s.Median();
  emit("tokens_per_s", rate, "token/s");
  absl::StrAppend(&table_,
                  absl::StrFormat("%-10s %3d streams %-5s %-10s %8.1f token/s", which.text,
                                  which.streams, WeightFormatName(which.weights), drafter, rate));
  if (drafter != kOff) {
    const DraftedWork& work = measured.work;
    const double speedup = rate / off.tokens_per_s.Median();
    // It was parsed before it ran.
    const double predicted = PredictSpeedup(work, which.weights, *SpeculationOf(drafter));
    const double acceptance = work.drafted > 0 ? work.accepted / work.drafted : 0;
    const double per_round = work.rounds > 0 ? 1 + work.accepted / work.rounds : 0;
    emit("speedup", speedup, "x");
    emit("predicted_speedup", predicted, "x");
    emit("acceptance", acceptance, "share");
    emit("tokens_per_round", per_round, "token");
    absl::StrAppend(&table_, absl::StrFormat("  %5.2fx (%.2fx)  accepted %3.0f %%, %.2f a round",
                                             speedup, predicted, acceptance * 100, per_round));
    // No draft passes are run: all that a step takes longer is for the rows it verifies.
    if (drafter == kLookup && work.drafted > 0) {
      const double plain = off.work.seconds / off.work.steps();
      const double rows = static_cast<double>(which.streams) * work.drafted / work.steps();
      const double cost = (work.seconds / work.steps() / plain - 1) / rows;
      emit("verify_cost", cost, "share");
      absl::StrAppend(&table_, absl::StrFormat(", a row %.1f %%", cost * 100));
    }
  }
  absl::StrAppend(&table_, "\n");
}

absl::Status SpeculateBench::Run() {
  SKIM_RETURN_IF_ERROR(Check());
  SKIM_RETURN_IF_ERROR(ReadTexts());
  // Touches every page of the weights and starts every thread.
  for (const v1::WeightFormat weights : options_.weights) {
    SKIM_RETURN_IF_ERROR(
        client_->Run({.streams = 4, .prompt_tokens = 64, .output_tokens = 16, .weights = weights})
            .status());
  }
  for (const std::string& text : options_.texts) {
    for (const v1::WeightFormat weights : options_.weights) {
      for (const int64_t streams : options_.streams) {
        SKIM_RETURN_IF_ERROR(RunCase({text, streams, weights}));
      }
    }
  }
  absl::StrAppend(&table_,
                  "Tokens per second of all streams, by how many times more than off (in brackets: "
                  "by the bytes\nof weights alone); what a verified row adds to a step.\n");
  return absl::OkStatus();
}

}  // namespace skim
