// What `auto` gains and costs in worlds whose every cost is known: the scheduler and a fake engine
// under a clock that advances by what each plan would take.
#include "scheduler/auto_speculation.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "scheduler/scheduler.h"
#include "tests/scheduler/fake_engine.h"
#include "tests/scheduler/null_observer.h"
#include "tests/scheduler/pending_engine.h"

namespace skim {
namespace {

constexpr Micros kEnqueueTime = 100;
constexpr int32_t kPromptTokens = 40, kVocabulary = 1000, kRequestTokens = 250;

struct World {
  std::string name;
  double row = 0.03;   // of each row more, as a share of a step's first
  double int8 = 0.4;   // a step in int8, as a share of one in bf16
  double right = 0.9;  // drafts of the model in int8
  double repeats = 0;  // of the output, share that repeats the prompt
  int streams = 1;
  double noise = 0;                  // of steps, as a share
  int32_t vocabulary = kVocabulary;  // a small one makes text that only seems to repeat
  double draft_model = 0;  // a step of a draft model, as a share of one in bf16; 0: there is none
  bool puts_off = false;   // draft passes take their time with the step behind them
};

// What a policy took, in microseconds, for the same requests, and whose drafts they were.
struct Outcome {
  Micros time = 0;
  std::array<DraftCounts, kDraftSources> drafts = {};
};

class Serving {
 public:
  explicit Serving(const World& world)
      : world_(world),
        geometry_{.page_tokens = 16,
                  .total_pages = 64 * 24,
                  .segment_units = {1},
                  .boundaries = {},
                  .layers = 4,
                  .hidden_rows_per_page = 8,
                  .draft_model = DraftModel(world)},
        intake_(256, 1 << 20),
        engine_(geometry_, [this](const PlanSequence& sequence, std::span<const TokenId> text,
                                  std::span<const TokenId>) { return Next(sequence, text); }),
        pending_engine_(&engine_, [this] { return world_.puts_off; }) {
    SchedulerConfig config;
    config.max_context = 400;
    config.prefix_cache = false;
    scheduler_ = std::make_unique<Scheduler>(config, geometry_, &intake_, &observer_);
    engine_.draft = [this](SeqId, TokenId right) {
      return Chance(world_.right) ? right : (right + 1) % world_.vocabulary;
    };
  }

  // As many requests for each stream, one after the other.
  Outcome Run(const SpeculationPolicy& policy, int requests) {
    Outcome outcome;
    int left = requests * world_.streams;
    std::vector<std::shared_ptr<TokenChannel>> channels;
    while (left > 0 || !channels.empty()) {
      while (left > 0 && std::ssize(channels) < world_.streams) {
        channels.push_back(Submit(policy));
        --left;
      }
      const StepPlan& plan = scheduler_->BeginStep(now_);
      StepResult result;
      busy_until_ = std::max(busy_until_, now_) + Duration(plan);
      EXPECT_TRUE(pending_engine_.Execute(plan, &result).ok()) << engine_.complaint();
      now_ = result.pending ? now_ + kEnqueueTime : busy_until_;
      scheduler_->Commit(absl::OkStatus(), std::move(result), now_);
      std::erase_if(channels, [&](const auto& channel) {
        const TokenChannel::Drained got = channel->Drain();
        if (!got.finish.has_value()) return false;
        EXPECT_EQ(got.finish->generated_tokens, kRequestTokens);
        for (size_t i = 0; i < outcome.drafts.size(); ++i) {
          const DraftCounts& counts = got.finish->speculation.by_source[i];
          outcome.drafts[i].drafted += counts.drafted;
          outcome.drafts[i].accepted += counts.accepted;
        }
        return true;
      });
    }
    outcome.time = now_;
    return outcome;
  }

 private:
  static DraftModelGeometry DraftModel(const World& world) {
    if (world.draft_model == 0) return {};
    return {
        .layers = 2, .units = 1, .context = 400, .format = WeightFormat::kInt8, .row_layers = 1};
  }

  bool Chance(double share) { return static_cast<double>(random_() % 10'000) < share * 10'000; }

  std::shared_ptr<TokenChannel> Submit(const SpeculationPolicy& policy) {
    Request request;
    request.id = next_id_++;
    for (int32_t i = 0; i < kPromptTokens; ++i) {
      request.prompt.push_back(static_cast<TokenId>(random_() % world_.vocabulary));
    }
    request.sampling.max_tokens = kRequestTokens;
    request.sampling.seed = request.id;
    request.speculation = policy;
    auto channel = std::make_shared<TokenChannel>(1024, std::function<void()>());
    EXPECT_TRUE(intake_.Submit({std::move(request), channel, now_}).ok());
    return channel;
  }

  // Depends on the text alone, whoever drafts.
  TokenId Next(const PlanSequence& sequence, std::span<const TokenId> text) const {
    const TokenId any = HashedNextToken(sequence.sampling->seed, text, world_.vocabulary);
    const TokenId lot = HashedNextToken(sequence.sampling->seed + 77, text, 10'000);
    const size_t at = (text.size() - kPromptTokens) % kPromptTokens;
    return lot < world_.repeats * 10'000 ? text[at] : any;
  }

  Micros Duration(const StepPlan& plan) {
    std::array<int32_t, kPassKinds> rows = {};
    for (const PlanSequence& s : plan.sequences) {
      rows[s.model == PlanModel::kDraft ? kDraftModelPass : PassOf(s.weight_format)] += s.row_count;
    }
    const auto first = [&](PassKind kind) {
      if (kind == kDraftModelPass) return world_.draft_model;
      return kind == PassOf(WeightFormat::kInt8) ? world_.int8 : 1.0;
    };
    double steps = 0;
    for (PassKind kind = 0; kind < rows.size(); ++kind) {
      if (rows[kind] > 0) steps += first(kind) * (1 + world_.row * (rows[kind] - 1));
    }
    const double noise = static_cast<double>(random_() % 2001) / 1000 - 1;
    return static_cast<Micros>(20'000 * steps * (1 + world_.noise * noise));
  }

  const World world_;
  const KvGeometry geometry_;
  std::mt19937 random_{5};
  Intake intake_;
  NullObserver observer_;
  FakeEngine engine_;
  PendingEngine pending_engine_;
  std::unique_ptr<Scheduler> scheduler_;
  SeqId next_id_ = 1;
  Micros now_ = 1;
  Micros busy_until_ = 1;
};

SpeculationPolicy Auto(int32_t max_drafts = 8) {
  SpeculationPolicy policy;
  policy.drafter = DrafterKind::kAuto;
  policy.max_drafts = max_drafts;
  policy.draft_formats = {WeightFormat::kInt8};
  return policy;
}

SpeculationPolicy AutoByDraftModel(int32_t max_drafts = 8) {
  SpeculationPolicy policy = Auto(max_drafts);
  policy.draft_formats = {};
  policy.may_use_draft_model = true;
  return policy;
}

SpeculationPolicy Fixed(DrafterKind drafter, int32_t max_drafts) {
  SpeculationPolicy policy;
  policy.drafter = drafter;
  policy.max_drafts = max_drafts;
  policy.exit_layer = 4;
  policy.draft_format = WeightFormat::kInt8;
  return policy;
}

int RequestsFor(const World& world) { return world.streams >= 16 ? 4 : 12; }

double SpeedUp(const World& world, const SpeculationPolicy& policy) {
  const int requests = RequestsFor(world);
  const Outcome off = Serving(world).Run({}, requests);
  const Outcome on = Serving(world).Run(policy, requests);
  return static_cast<double>(off.time) / static_cast<double>(on.time);
}

TEST(AutoSpeculation, IsNeverMoreThanTwoPercentSlowerThanOff) {
  for (const int streams : {1, 4, 16}) {
    for (const double row : {0.01, 0.1, 0.4, 1.0}) {
      for (const auto& [int8, right] : std::vector<std::pair<double, double>>{
               {0.4, 0.95}, {0.4, 0.05}, {0.9, 0.9}, {1.5, 0.5}}) {
        for (const double repeats : {0.0, 0.9}) {
          const World world = {.name = "",
                               .row = row,
                               .int8 = int8,
                               .right = right,
                               .repeats = repeats,
                               .streams = streams,
                               .vocabulary = repeats > 0 ? kVocabulary : 12};
          EXPECT_GE(SpeedUp(world, Auto()), 0.98)
              << streams << " streams, row " << row << ", int8 " << int8 << " right " << right
              << ", repeats " << repeats;
        }
      }
    }
  }
}

// A pass that is put off seems to take no time, and the step behind it that of both: neither may
// be taken for what it seems.
TEST(AutoSpeculation, IsNeverMoreThanTwoPercentSlowerThanOffWherePassesArePutOff) {
  for (const int streams : {1, 4, 16}) {
    for (const double row : {0.01, 0.4}) {
      for (const auto& [int8, right] : std::vector<std::pair<double, double>>{
               {0.4, 0.95}, {0.4, 0.05}, {0.9, 0.9}, {1.5, 0.5}}) {
        const World world = {.name = "",
                             .row = row,
                             .int8 = int8,
                             .right = right,
                             .streams = streams,
                             .vocabulary = 12,
                             .puts_off = true};
        EXPECT_GE(SpeedUp(world, Auto()), 0.98)
            << streams << " streams, row " << row << ", int8 " << int8 << " right " << right;
      }
    }
  }
}

// Which also has to know the text, whether or not it will draft.
TEST(AutoSpeculation, IsNeverMoreThanTwoPercentSlowerThanOffWithADraftModel) {
  for (const int streams : {1, 4, 16}) {
    for (const double row : {0.01, 0.1, 0.4, 1.0}) {
      for (const auto& [draft_model, right] : std::vector<std::pair<double, double>>{
               {0.1, 0.9}, {0.1, 0.05}, {0.5, 0.3}, {0.5, 0.9}, {1.2, 0.9}}) {
        const World world = {
            .name = "", .row = row, .right = right, .streams = streams, .draft_model = draft_model};
        EXPECT_GE(SpeedUp(world, AutoByDraftModel()), 0.98)
            << streams << " streams, row " << row << ", draft model " << draft_model << " right "
            << right;
      }
    }
  }
}

TEST(AutoSpeculation, ComesNearTheBestFixedChoiceWithADraftModel) {
  for (const World& world :
       {World{.name = "one stream", .right = 0.8, .draft_model = 0.1},
        World{.name = "four streams", .right = 0.85, .streams = 4, .draft_model = 0.15}}) {
    double best = 1;
    for (const int32_t drafts : {2, 4, 8}) {
      best = std::max(best, SpeedUp(world, Fixed(DrafterKind::kDraftModel, drafts)));
    }
    const double automatic = SpeedUp(world, AutoByDraftModel());
    EXPECT_GE(automatic, 0.9 * best) << world.name << ": the best is " << best;
    EXPECT_GT(automatic, 1.2) << world.name;
  }
}

TEST(AutoSpeculation, IsNeverMoreThanTwoPercentSlowerWhereStepsTakeNowMoreNowLess) {
  for (const double right : {0.1, 0.5, 0.9}) {
    for (const int streams : {1, 8}) {
      const World world = {
          .name = "", .row = 0.1, .right = right, .streams = streams, .noise = 0.3};
      EXPECT_GE(SpeedUp(world, Auto()), 0.98) << right << " " << streams;
    }
  }
}

TEST(AutoSpeculation, ComesNearTheBestFixedChoice) {
  const World worlds[] = {
      {.name = "template", .repeats = 0.97},
      {.name = "chat", .right = 0.93},
      {.name = "both", .right = 0.9, .repeats = 0.8},
      {.name = "eight streams", .right = 0.95, .streams = 8},
      {.name = "dear rows", .row = 0.15, .right = 0.95},
      {.name = "template, put off", .repeats = 0.97, .puts_off = true},
      {.name = "chat, put off", .right = 0.93, .puts_off = true},
      {.name = "eight streams, put off", .right = 0.95, .streams = 8, .puts_off = true},
  };
  for (const World& world : worlds) {
    double best = 1;
    for (const DrafterKind kind : {DrafterKind::kLookup, DrafterKind::kSelf}) {
      for (const int32_t drafts : {2, 4, 8}) {
        best = std::max(best, SpeedUp(world, Fixed(kind, drafts)));
      }
    }
    const double automatic = SpeedUp(world, Auto());
    EXPECT_GE(automatic, 0.9 * best) << world.name << ": the best is " << best;
    EXPECT_GT(automatic, 1.2) << world.name;
  }
}

TEST(AutoSpeculation, DraftsFromTextWhereItRepeatsAndByTheModelWhereItDoesNot) {
  const Outcome repeats = Serving({.name = "", .repeats = 0.97}).Run(Auto(), 4);
  const size_t lookup = 0, self = SelfSource(WeightFormat::kInt8);
  EXPECT_GT(repeats.drafts[lookup].accepted, repeats.drafts[self].accepted);
  const Outcome chat = Serving({.name = "", .right = 0.95}).Run(Auto(), 4);
  EXPECT_GT(chat.drafts[self].accepted, 10 * chat.drafts[lookup].accepted);
}

TEST(AutoSpeculation, FullStepsAreLeftAlone) {
  const World world = {.name = "", .row = 1, .right = 0.95, .repeats = 0.97, .streams = 16};
  const Outcome outcome = Serving(world).Run(Auto(), 2);
  for (const DraftCounts& counts : outcome.drafts) {
    EXPECT_LT(counts.drafted, 16 * 2 * kRequestTokens / 50);
  }
}

// Text that only seems to repeat is always at hand, and neither pays: what the model's passes are
// worth is tried all the same, as often as what the text is.
TEST(AutoSpeculation, TextsOnOfferDoNotHideWhatSharedPassesAreWorth) {
  const World world = {.name = "", .int8 = 1, .right = 0, .streams = 4, .vocabulary = 8};
  const Outcome outcome = Serving(world).Run(Auto(), 40);
  const auto text = outcome.drafts[0].drafted;
  const auto passes = outcome.drafts[SelfSource(WeightFormat::kInt8)].drafted;
  EXPECT_GT(text, 100);
  EXPECT_GT(passes, text / 3);
}

// The drafts get bad in the midst of it: the account bounds what is lost before it is noticed.
TEST(AutoSpeculation, AWrongExpectationCostsNoMoreThanTheAccount) {
  World world = {.name = "", .right = 0};
  EXPECT_GE(SpeedUp(world, Auto(16)), 0.98);
}

TEST(AutoSpeculation, SameCallsGiveTheSamePlans) {
  const World world = {.name = "", .right = 0.8, .repeats = 0.5, .streams = 4, .noise = 0.2};
  EXPECT_EQ(Serving(world).Run(Auto(), 2).time, Serving(world).Run(Auto(), 2).time);
}

}  // namespace
}  // namespace skim
