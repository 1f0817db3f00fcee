#include "loadtest/lazy_bench.h"

#include <algorithm>
#include <mutex>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "base/status_macros.h"
#include "cli/weight_format_name.h"
#include "loadtest/bench_figure.h"
#include "loadtest/decoding_users.h"
#include "loadtest/token_gaps.h"

namespace skim {
namespace {

constexpr int64_t kE2eLength = 4096;
constexpr char kCompanion[] = "fast";
constexpr char kCell[] = "  %14s";  // of the table

double Seconds(Micros time) { return static_cast<double>(time) * 1e-6; }

// Of the exact model, which has no name, none.
const v1::PrefillProfile* SettingsOf(const v1::GetModelResponse& model,
                                     const std::string& profile) {
  for (const v1::PrefillProfile& settings : model.prefill_profile_settings()) {
    if (settings.name() == profile) return &settings;
  }
  return nullptr;
}

// How many layers the scouts of this boundary run; 0: it has none.
double ScoutLayers(const v1::GetModelResponse& model, uint32_t boundary) {
  for (int i = 0; i < model.prefill_scouted_boundaries_size(); ++i) {
    if (model.prefill_scouted_boundaries(i) != boundary) continue;
    return static_cast<double>(model.prefill_scout_layers(i)) - boundary;
  }
  return 0;
}

std::string NameOf(const std::string& profile) { return profile.empty() ? "exact" : profile; }

}  // namespace

void MakeQuick(LazyBenchOptions* options) {
  options->profiles = {kCompanion};
  options->lengths = {512, 1024};
  options->output_tokens = {4, 16};
  options->quiet = 200'000;
  options->repetitions = 1;
}

LazyBench::LazyBench(BenchClient* client, LazyBenchOptions options, const Roofs& roofs,
                     PagesHeld pages_held, Emit emit, Progress progress)
    : client_(client),
      options_(std::move(options)),
      roofs_(roofs),
      pages_held_(std::move(pages_held)),
      emit_(std::move(emit)),
      progress_(std::move(progress)) {}

absl::Status LazyBench::Check() const {
  const v1::GetModelResponse& model = client_->model();
  if (options_.profiles.empty() || options_.lengths.empty() || options_.weights.empty()) {
    return absl::InvalidArgumentError("--profiles, --lengths and --weights must not be empty");
  }
  for (const std::string& profile : options_.profiles) {
    if (std::ranges::find(model.prefill_profiles(), profile) == model.prefill_profiles().end()) {
      return absl::InvalidArgumentError(absl::StrCat(
          "--profiles: '", profile,
          "' is none of this model's: ", absl::StrJoin(model.prefill_profiles(), ", ")));
    }
  }
  const int64_t context = model.max_context();
  if (options_.lengths.front() < 1 || options_.lengths.back() + 1 > context ||
      e2e_length_ + options_.output_tokens.back() > context) {
    return absl::InvalidArgumentError(absl::StrCat(
        "--lengths: prompt and output must fit the model's context of ", context, " tokens"));
  }
  return absl::OkStatus();
}

std::vector<LazyBench::Setting> LazyBench::Settings() const {
  std::vector<Setting> settings = {{"", options_.weights.front()}};
  for (const std::string& profile : options_.profiles) {
    settings.push_back({profile, options_.weights.front()});
  }
  for (size_t i = 1; i < options_.weights.size(); ++i) {
    settings.push_back({companion_, options_.weights[i]});
  }
  return settings;
}

BenchWork LazyBench::WorkOf(const Setting& setting, int64_t prompt_tokens,
                            int64_t output_tokens) const {
  return {.prompt_tokens = prompt_tokens,
          .output_tokens = output_tokens,
          .weights = setting.weights,
          .prefill = setting.profile};
}

void LazyBench::Advance(const std::string& what, int64_t tokens) {
  done_tokens_ += tokens;
  progress_(static_cast<double>(done_tokens_) / static_cast<double>(all_tokens_), what);
}

// Untimed, so it also touches the setting's weights for the first time.
absl::Status LazyBench::MeasurePages(const Setting& setting) {
  std::mutex mutex;
  absl::Status status;
  auto next = options_.output_tokens.begin();
  BenchWork work = WorkOf(setting, e2e_length_, options_.output_tokens.back());
  work.stays = [&](size_t tokens) {
    std::lock_guard lock(mutex);
    // Before the last token: with it the pages are given back.
    while (next != options_.output_tokens.end() && static_cast<int64_t>(tokens) + 1 >= *next) {
      const absl::StatusOr<double> pages = pages_held_();
      status.Update(pages.status());
      if (pages.ok()) measured_[setting].pages[*next] = *pages;
      ++next;
    }
    return true;
  };
  SKIM_RETURN_IF_ERROR(client_->Run(work).status());
  SKIM_RETURN_IF_ERROR(status);
  Advance("memory", e2e_length_);
  return absl::OkStatus();
}

double LazyBench::PredictSeconds(const Setting& setting, int64_t prompt_tokens) const {
  const v1::GetModelResponse& model = client_->model();
  const auto all = static_cast<double>(prompt_tokens);
  const v1::PrefillProfile* profile = SettingsOf(model, setting.profile);
  const bool phantoms =
      profile != nullptr && (profile->decode_mode() == v1::PrefillPolicy::DECODE_MODE_PHANTOM ||
                             profile->decode_mode() == v1::PrefillPolicy::DECODE_MODE_LATE);
  std::vector<LayerTokens> stretches;
  uint32_t first_layer = 0;
  double tokens = all;
  const auto add = [&](uint32_t end_layer) {
    LayerTokens& stretch = stretches.emplace_back();
    stretch.layers = end_layer - first_layer;
    stretch.tokens = tokens;
    if (phantoms) {
      stretch.seen = all;
      stretch.predicted_layers = (all - tokens) * stretch.layers;
    }
    first_layer = end_layer;
  };
  for (int b = 0; b < model.prefill_boundaries_size(); ++b) {
    add(model.prefill_boundaries(b));
    if (profile == nullptr) continue;
    const double kept =
        std::max<double>(model.prefill_min_kept_tokens(), profile->keep_ratio(b) * all);
    if (kept >= tokens) continue;
    tokens = kept;
    // The scouts themselves are too few to count.
    stretches.back().predicted_layers += all * ScoutLayers(model, first_layer);
  }
  add(model.layers());
  return ServeCost(model, setting.weights).PrefillSeconds(stretches, roofs_);
}

absl::Status LazyBench::MeasureTimes(const Setting& setting, int64_t prompt_tokens) {
  Measured& measured = measured_[setting];
  const bool e2e = prompt_tokens == e2e_length_;
  const BenchWork work = WorkOf(setting, prompt_tokens, e2e ? options_.output_tokens.back() : 1);
  SKIM_ASSIGN_OR_RETURN(const auto records, client_->Run(work));
  const StreamRecord& record = records.front();
  measured.ttft_s[prompt_tokens].Add(FirstTokenSeconds(record));
  for (const int64_t tokens : e2e ? options_.output_tokens : std::vector<int64_t>()) {
    measured.e2e_s[tokens].Add(Seconds(record.token_times[tokens - 1] - record.started));
  }
  Advance(absl::StrCat("prompts of ", prompt_tokens), prompt_tokens);
  return absl::OkStatus();
}

absl::Status LazyBench::MeasureUsers() {
  struct Window {
    Micros begin, end;
    Samples* samples;
  };
  const SteadyClock clock;
  const int64_t length = options_.lengths.back();
  std::vector<Window> quiet, beside;
  SKIM_ASSIGN_OR_RETURN(const auto users,
                        DecodingUsers::Start(client_, options_.users, options_.weights.front()));
  for (const std::string& profile : {std::string(), companion_}) {
    const Setting setting = {profile, options_.weights.front()};
    Measured& measured = measured_[setting];
    const Micros begin = clock.Now();
    users->Watch(options_.quiet);
    quiet.push_back({begin, clock.Now(), &measured.quiet_ms});
    SKIM_ASSIGN_OR_RETURN(const auto records, client_->Run(WorkOf(setting, length, 1)));
    const StreamRecord& record = records.front();
    beside.push_back({record.started, record.token_times.front(), &measured.beside_ms});
    Advance("users", length);
  }
  SKIM_ASSIGN_OR_RETURN(const auto records, users->Stop());
  for (const StreamRecord& record : records) {
    for (const TokenGap& gap : TokenGaps(record.token_times)) {
      for (const Window& w : quiet) {
        if (gap.begin >= w.begin && gap.end <= w.end) w.samples->Add(gap.ms);
      }
      // Every wait that any part of the prefill fell into.
      for (const Window& w : beside) {
        if (gap.begin < w.end && gap.end > w.begin) w.samples->Add(gap.ms);
      }
    }
  }
  return absl::OkStatus();
}

absl::Status LazyBench::Run() {
  e2e_length_ = options_.lengths.front();
  for (const int64_t length : options_.lengths) {
    if (length <= kE2eLength) e2e_length_ = length;
  }
  SKIM_RETURN_IF_ERROR(Check());
  const auto& profiles = options_.profiles;
  const bool has = std::ranges::find(profiles, kCompanion) != profiles.end();
  companion_ = has ? kCompanion : profiles.front();

  const std::vector<Setting> settings = Settings();
  int64_t round = 2 * options_.lengths.back();
  for (const int64_t length : options_.lengths) {
    round += length * static_cast<int64_t>(settings.size());
  }
  all_tokens_ = round * options_.repetitions + e2e_length_ * static_cast<int64_t>(settings.size());

  for (const Setting& setting : settings) SKIM_RETURN_IF_ERROR(MeasurePages(setting));
  for (int i = 0; i < options_.repetitions; ++i) {
    for (const int64_t length : options_.lengths) {
      for (const Setting& setting : settings) {
        SKIM_RETURN_IF_ERROR(MeasureTimes(setting, length));
      }
    }
    SKIM_RETURN_IF_ERROR(MeasureUsers());
  }
  EmitFigures();
  return absl::OkStatus();
}

void LazyBench::EmitFigure(const std::string& name, double value, const std::string& unit,
                           const Setting& setting, nlohmann::ordered_json params) {
  nlohmann::ordered_json all = {{"profile", NameOf(setting.profile)},
                                {"weights", WeightFormatName(setting.weights)}};
  all.update(params);
  emit_(Figure("lazy", name, value, unit, std::move(all)));
}

double LazyBench::Measured::SecondsPerToken() const {
  const auto& [first, to_first] = *e2e_s.begin();
  const auto& [last, to_last] = *e2e_s.rbegin();
  return (to_last.Median() - to_first.Median()) / static_cast<double>(last - first);
}

void LazyBench::EmitFigures() {
  const Setting exact_setting = {"", options_.weights.front()};
  const Measured& exact = measured_.at(exact_setting);
  for (const Setting& setting : Settings()) {
    const Measured& measured = measured_.at(setting);
    const bool is_exact = setting.profile.empty();
    Row& row = rows_.emplace_back();
    row.setting = NameOf(setting.profile) + " " + WeightFormatName(setting.weights);
    for (const auto& [length, seconds] : measured.ttft_s) {
      const nlohmann::ordered_json params = {{"prompt_tokens", length}, {"output_tokens", 1}};
      EmitFigure("ttft_ms", seconds.Median() * 1e3, "ms", setting, params);
      std::string& cell = row.cells.emplace_back(absl::StrFormat("%.2f s", seconds.Median()));
      if (is_exact) continue;
      const double gain = exact.ttft_s.at(length).Median() / seconds.Median();
      const double predicted =
          PredictSeconds(exact_setting, length) / PredictSeconds(setting, length);
      EmitFigure("ttft_gain", gain, "x", setting, params);
      EmitFigure("predicted_gain", predicted, "x", setting, params);
      EmitFigure("gain_share", gain / predicted, "share", setting, params);
      cell = absl::StrFormat("%.2fx (%.2fx)", gain, predicted);
    }
    for (const auto& [tokens, seconds] : measured.e2e_s) {
      std::string& cell = row.cells.emplace_back(absl::StrFormat("%.2f s", seconds.Median()));
      if (is_exact) continue;
      const double gain = exact.e2e_s.at(tokens).Median() / seconds.Median();
      EmitFigure("e2e_gain", gain, "x", setting,
                 {{"prompt_tokens", e2e_length_}, {"output_tokens", tokens}});
      cell = absl::StrFormat("%.2fx", gain);
    }
    if (!is_exact && measured.e2e_s.size() > 1) {
      EmitFigure("itl_ratio", measured.SecondsPerToken() / exact.SecondsPerToken(), "x", setting,
                 {{"prompt_tokens", e2e_length_}, {"output_tokens", measured.e2e_s.rbegin()->first}});
    }
    for (const auto& [tokens, pages] : measured.pages) {
      std::string& cell = row.cells.emplace_back(absl::StrFormat("%.0f pages", pages));
      if (is_exact) continue;
      const double saved = 1 - pages / exact.pages.at(tokens);
      EmitFigure("memory_saved", saved, "share", setting,
                 {{"prompt_tokens", e2e_length_}, {"output_tokens", tokens}});
      cell = absl::StrFormat("%.0f %%", saved * 100);
    }
    if (measured.beside_ms.count() == 0) continue;
    const double ratio = measured.beside_ms.Percentile(0.99) / measured.quiet_ms.Percentile(0.99);
    EmitFigure("itl_p99_ratio", ratio, "x", setting,
               {{"prompt_tokens", options_.lengths.back()},
                {"output_tokens", 1},
                {"users", options_.users},
                {"max_decode_slowdown", options_.max_decode_slowdown}});
    row.cells.push_back(absl::StrFormat("%.1fx", ratio));
  }
}

std::string LazyBench::Table() const {
  std::string table = absl::StrFormat("%-16s", "");
  const auto head = [&table](const std::string& text) {
    absl::StrAppend(&table, absl::StrFormat(kCell, text));
  };
  for (const int64_t length : options_.lengths) head(absl::StrCat("first of ", length));
  for (const int64_t tokens : options_.output_tokens) head(absl::StrCat("all of ", tokens));
  for (const int64_t tokens : options_.output_tokens) head(absl::StrCat("memory at ", tokens));
  head("users' p99");
  for (const Row& row : rows_) {
    absl::StrAppend(&table, "\n", absl::StrFormat("%-16s", row.setting));
    for (const std::string& cell : row.cells) absl::StrAppend(&table, absl::StrFormat(kCell, cell));
  }
  absl::StrAppend(
      &table,
      "\nTimes to the first and to the last token and pages of memory, by how many times and how "
      "much\n"
      "less than exact (in brackets: what the arithmetic predicts); outputs follow prompts of ",
      e2e_length_, ".\nUsers: their 99th percentile between tokens beside a prompt of ",
      options_.lengths.back(), ", over that without.\n");
  return table;
}

}  // namespace skim
