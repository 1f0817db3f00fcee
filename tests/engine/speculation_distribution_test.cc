// The distribution of sampled text with drafts, on a toy model whose distribution is known: the
// real scheduler and sampler, logits from a table, drafts from another table. Chi-squared of 1e5
// texts against the probabilities computed here from the definition.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <memory>
#include <numeric>
#include <string>
#include <vector>

#include "base/check.h"
#include "engine/sample_rows.h"
#include "engine/step_executor.h"
#include "kernels/backend.h"
#include "scheduler/scheduler.h"
#include "tests/scheduler/null_observer.h"

namespace skim {
namespace {

constexpr int32_t kVocabulary = 5;
constexpr int32_t kTokens = 4;  // of a text, behind a prompt of one
constexpr int32_t kTexts = 100'000;

using Logits = std::vector<float>;

// What follows `last`.
Logits ModelLogits(TokenId last) {
  Logits logits(kVocabulary);
  for (int32_t v = 0; v < kVocabulary; ++v) {
    logits[v] = 1.2f * std::sin(1.7f * static_cast<float>(last * kVocabulary + v));
  }
  return logits;
}

// Much like it, and wrong.
Logits DraftLogits(TokenId last) {
  Logits logits = ModelLogits(last);
  for (int32_t v = 0; v < kVocabulary; ++v) {
    logits[v] += 0.9f * std::cos(2.3f * static_cast<float>(last + 3 * v));
  }
  return logits;
}

class ToyEngine final : public StepExecutor {
 public:
  ToyEngine() : rows_(kVocabulary) {
    BackendOptions options;
    options.backend = "cpu";
    options.threads = 1;
    options.pin_threads = false;
    auto ops = MakeOps(options);
    SKIM_CHECK(ops.ok());
    ops_ = *std::move(ops);
    geometry_.page_tokens = 16;
    geometry_.total_pages = 1000;
    geometry_.layers = 2;
    geometry_.hidden_rows_per_page = 16;
  }

  absl::Status Execute(const StepPlan& plan, StepResult* result) override {
    result->sequences.assign(plan.sequences.size(), SequenceResult());
    for (size_t i = 0; i < plan.sequences.size(); ++i) {
      const PlanSequence& sequence = plan.sequences[i];
      const int32_t end = sequence.row_begin + sequence.row_count;
      for (int32_t row = end - sequence.draws; row < end; ++row) {
        Logits logits =
            sequence.draft ? DraftLogits(plan.tokens[row]) : ModelLogits(plan.tokens[row]);
        rows_.Clear();
        rows_.AddDraw(sequence, plan.positions[row] + 1);
        SampledToken sampled;
        ops_->Sample({{logits.data(), 1, kVocabulary, kVocabulary}, rows_.rows()}, {&sampled, 1});
        result->sequences[i].sampled.push_back(sampled);
      }
    }
    return ops_->Wait();
  }

  const KvGeometry& kv_geometry() const override { return geometry_; }

 private:
  std::unique_ptr<Ops> ops_;
  SampleRows rows_;
  KvGeometry geometry_;
};

using Text = std::vector<TokenId>;

DraftCounts CountTexts(const SamplingParams& sampling, const SpeculationPolicy& speculation,
                       std::map<Text, int64_t>* counts) {
  ToyEngine engine;
  NullObserver observer;
  SchedulerConfig config;
  config.max_context = 32;
  config.prefix_cache = false;
  config.max_waiting = 64;
  Intake intake(config.max_waiting, config.max_waiting_tokens);
  Scheduler scheduler(config, engine.kv_geometry(), &intake, &observer);
  std::vector<std::shared_ptr<TokenChannel>> channels;
  DraftCounts total;
  for (int32_t done = 0, submitted = 0; done < kTexts;) {
    for (; submitted < kTexts && std::ssize(channels) < config.max_waiting; ++submitted) {
      Request request;
      request.id = static_cast<SeqId>(submitted + 1);
      request.prompt = {0};
      request.sampling = sampling;
      request.sampling.seed = static_cast<uint64_t>(submitted);
      request.speculation = speculation;
      channels.push_back(std::make_shared<TokenChannel>(64, std::function<void()>()));
      SKIM_CHECK(intake.Submit({std::move(request), channels.back(), 0}).ok());
    }
    StepResult result;
    const StepPlan& plan = scheduler.BeginStep(1);
    SKIM_CHECK(!plan.empty());
    const absl::Status executed = engine.Execute(plan, &result);
    scheduler.Commit(executed, std::move(result), 1);
    std::erase_if(channels, [&](const auto& channel) {
      // Nobody reads before the end.
      if (scheduler.State().running == 0 && scheduler.State().waiting == 0) {
        TokenChannel::Drained got = channel->Drain();
        SKIM_CHECK(got.finish.has_value() && got.finish->status.ok());
        Text text;
        for (const SampledToken& token : got.tokens) text.push_back(token.token);
        ++(*counts)[text];
        total.drafted += got.finish->speculation.total().drafted;
        total.accepted += got.finish->speculation.total().accepted;
        ++done;
        return true;
      }
      return false;
    });
  }
  return total;
}

// What the header of kernels/sampling.h defines, in double.
std::vector<double> Probabilities(const Text& before, const SamplingParams& sampling) {
  const Logits logits = ModelLogits(before.empty() ? 0 : before.back());
  std::vector<double> x(logits.begin(), logits.end());
  for (const LogitBias& bias : sampling.bias) x[bias.token] += bias.bias;
  for (int32_t v = 0; v < kVocabulary; ++v) {
    const auto count = std::ranges::count(before, v);
    const bool seen = count > 0 || v == 0;  // the prompt
    if (seen)
      x[v] = x[v] > 0 ? x[v] / sampling.repetition_penalty : x[v] * sampling.repetition_penalty;
    x[v] -= static_cast<double>(count) * sampling.frequency_penalty;
    if (count > 0) x[v] -= sampling.presence_penalty;
    x[v] /= sampling.temperature;
  }
  if (std::ssize(before) < sampling.min_tokens) {
    for (const TokenId stop : sampling.stop_tokens) x[stop] = -1e30;
  }
  std::vector<int32_t> order(kVocabulary);
  std::iota(order.begin(), order.end(), 0);
  std::ranges::stable_sort(order, std::greater(), [&](int32_t v) { return x[v]; });
  std::vector<double> p(kVocabulary, 0);
  for (int32_t v = 0; v < kVocabulary; ++v) p[v] = std::exp(x[v]);
  const auto keep = [&](int32_t count) {
    for (int32_t i = count; i < kVocabulary; ++i) p[order[i]] = 0;
    const double sum = std::accumulate(p.begin(), p.end(), 0.0);
    for (double& value : p) value /= sum;
  };
  keep(sampling.top_k > 0 ? sampling.top_k : kVocabulary);
  int32_t nucleus = 0;
  for (double mass = 0; nucleus < kVocabulary && mass < sampling.top_p; ++nucleus) {
    mass += p[order[nucleus]];
  }
  keep(nucleus);
  int32_t likely = 0;
  while (likely < kVocabulary && p[order[likely]] >= sampling.min_p * p[order[0]]) ++likely;
  keep(likely);
  return p;
}

// Probability of every text.
void Expected(const Text& before, double probability, const SamplingParams& sampling,
              std::map<Text, double>* out) {
  const bool ended = !before.empty() && std::ranges::count(sampling.stop_tokens, before.back()) > 0;
  if (std::ssize(before) == kTokens || ended) {
    (*out)[before] = probability;
    return;
  }
  const std::vector<double> p = Probabilities(before, sampling);
  for (int32_t v = 0; v < kVocabulary; ++v) {
    if (p[v] == 0) continue;
    Text text = before;
    text.push_back(v);
    Expected(text, probability * p[v], sampling, out);
  }
}

// Standard deviations by which chi-squared exceeds its mean (Wilson and Hilferty's cube root).
double Excess(double chi_squared, double freedom) {
  const double variance = 2 / (9 * freedom);
  return (std::cbrt(chi_squared / freedom) - (1 - variance)) / std::sqrt(variance);
}

struct Case {
  std::string name;
  SamplingParams sampling;
};

std::vector<Case> Cases() {
  SamplingParams plain;
  plain.max_tokens = kTokens;
  std::vector<Case> cases(7, {"t1", plain});
  cases[1].name = "top_k";
  cases[1].sampling.top_k = 3;
  cases[2].name = "top_p";
  cases[2].sampling.top_p = 0.8f;
  cases[3].name = "min_p";
  cases[3].sampling.min_p = 0.3f;
  cases[4].name = "penalties";
  cases[4].sampling.repetition_penalty = 1.4f;
  cases[4].sampling.frequency_penalty = 0.8f;
  cases[4].sampling.presence_penalty = 0.5f;
  cases[5].name = "bias_and_temperature";
  cases[5].sampling.temperature = 0.6f;
  cases[5].sampling.bias = {{1, 0.7f}, {3, -0.4f}};
  cases[6].name = "stop_and_min_tokens";
  cases[6].sampling.stop_tokens = {2, 4};
  cases[6].sampling.min_tokens = 2;
  return cases;
}

class SpeculationDistribution : public ::testing::TestWithParam<Case> {};

TEST_P(SpeculationDistribution, IsTheModelsOwnWhateverTheDraftsAre) {
  const SamplingParams& sampling = GetParam().sampling;
  std::map<Text, double> expected;
  Expected({}, 1, sampling, &expected);
  SpeculationPolicy self;
  self.drafter = DrafterKind::kSelf;
  self.max_drafts = 3;
  self.exit_layer = 1;
  SpeculationPolicy lookup = self;
  lookup.drafter = DrafterKind::kLookup;
  lookup.min_ngram = 1;
  for (const SpeculationPolicy& policy : {self, lookup}) {
    SCOPED_TRACE(std::string(DrafterName(policy.drafter)));
    std::map<Text, int64_t> counts;
    const DraftCounts report = CountTexts(sampling, policy, &counts);
    EXPECT_GT(report.drafted, kTexts / 10);
    EXPECT_GT(report.accepted, report.drafted / 20);
    EXPECT_LT(report.accepted, report.drafted * 19 / 20);

    double chi_squared = 0, freedom = -1, rare = 0, rare_counted = 0;
    for (const auto& [text, probability] : expected) {
      const double want = probability * kTexts;
      const auto found = counts.find(text);
      const double got = found == counts.end() ? 0 : static_cast<double>(found->second);
      if (found != counts.end()) counts.erase(found);
      if (want < 8) {
        rare += want;
        rare_counted += got;
        continue;
      }
      chi_squared += (got - want) * (got - want) / want;
      ++freedom;
    }
    EXPECT_TRUE(counts.empty()) << "texts that the model cannot write";
    if (rare >= 8) {
      chi_squared += (rare_counted - rare) * (rare_counted - rare) / rare;
      ++freedom;
    }
    ASSERT_GT(freedom, 10);
    EXPECT_LT(Excess(chi_squared, freedom), 4) << chi_squared << " of " << freedom;
  }
}

INSTANTIATE_TEST_SUITE_P(Sampling, SpeculationDistribution, ::testing::ValuesIn(Cases()),
                         [](const auto& info) { return info.param.name; });

}  // namespace
}  // namespace skim
