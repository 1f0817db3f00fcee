#include "scheduler/draft_choice.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <random>

namespace skim {
namespace {

using enum WeightFormat;

constexpr double kAny = 1e9;  // stake

// `row`: what each row more costs, as a share of the first; `low`: a step in int8 and in int4.
StepTimes Times(double row, double int8 = 0.4, double int4 = 0.25) {
  StepTimes times;
  for (int32_t rows = 1; rows <= 512; rows = rows < 16 ? rows + 1 : rows * 5 / 4) {
    const double micros = 1e6 * (1 + row * (rows - 1));
    times.Add(kBf16, rows, static_cast<Micros>(micros));
    times.Add(kInt8, rows, static_cast<Micros>(micros * int8));
    times.Add(kInt4, rows, static_cast<Micros>(micros * int4));
  }
  return times;
}

DraftOffer Offer(double acceptance, bool passes = false, WeightFormat format = kInt8,
                 int32_t most = 8) {
  DraftOffer offer{passes, PassOf(format), most, {}};
  double survival = 1;
  for (int32_t i = 0; i < most; ++i) offer.survival[i] = survival *= acceptance;
  return offer;
}

DraftPlan Choose(const std::vector<DraftCandidate>& candidates, const StepTimes& times,
                 int32_t bystanders = 0, double least = 0, double stake = kAny) {
  RowsByFormat decoding = {};
  decoding[0] = bystanders;
  for (const DraftCandidate& candidate : candidates) {
    ++decoding[static_cast<size_t>(candidate.format)];
  }
  return ChooseDrafts(candidates, decoding, times, least, stake);
}

TEST(DraftChoice, LikelyDraftsAreTakenAndUnlikelyOnesAreNot) {
  const StepTimes times = Times(0.1);
  EXPECT_GT(Choose({{kBf16, {Offer(0.9)}}}, times).choices[0].drafts, 4);
  EXPECT_EQ(Choose({{kBf16, {Offer(0.05)}}}, times).choices[0].drafts, 0);
  EXPECT_FALSE(Choose({{kBf16, {Offer(0.05)}}}, times).any());
  EXPECT_FALSE(Choose({}, times).any());
  EXPECT_FALSE(Choose({{kBf16, {}}}, times, 3).any());
}

TEST(DraftChoice, TheMoreCertainTheMoreAndTheDearerTheFewer) {
  int32_t before = 0;
  for (const double acceptance : {0.1, 0.3, 0.5, 0.7, 0.9}) {
    const int32_t drafts = Choose({{kBf16, {Offer(acceptance)}}}, Times(0.05)).choices[0].drafts;
    EXPECT_GE(drafts, before) << acceptance;
    before = drafts;
  }
  EXPECT_EQ(before, 8);
  for (const double row : {0.01, 0.1, 0.3, 0.6, 1.0}) {
    const int32_t drafts = Choose({{kBf16, {Offer(0.7)}}}, Times(row)).choices[0].drafts;
    EXPECT_LE(drafts, before) << row;
    before = drafts;
  }
  EXPECT_EQ(before, 0);
}

TEST(DraftChoice, TextThatIsRightAsOftenBeatsPassesAndTextThatIsWrongDoesNot) {
  const StepTimes times = Times(0.03);
  const auto offer_of = [&](double text) {
    return Choose({{kBf16, {Offer(text), Offer(0.95, true)}}}, times).choices[0].offer;
  };
  EXPECT_EQ(offer_of(0.95), 0);
  EXPECT_EQ(offer_of(0.1), 1);
}

// Passes pay when many share them, so who leaves them for its text may spoil them for all.
TEST(DraftChoice, TextInTheOffersIsNoReasonToGainLess) {
  std::mt19937 random(3);
  const auto share = [&](double least, double most) {
    return std::uniform_real_distribution<double>(least, most)(random);
  };
  for (int i = 0; i < 300; ++i) {
    const StepTimes times = Times(share(0.01, 0.2), share(0.3, 0.7));
    std::vector<DraftCandidate> passes, both;
    for (int c = 0; c < 2 + i % 5; ++c) {
      const DraftOffer pass = Offer(share(0.8, 1), true), text = Offer(share(0.1, 0.9));
      passes.push_back({kBf16, {pass}});
      both.push_back({kBf16, {text, pass}});
      if (share(0, 1) < 0.5) both.back().offers.erase(both.back().offers.begin());
    }
    EXPECT_GE(Choose(both, times).gain, Choose(passes, times).gain - 1e-9) << i;
  }
}

TEST(DraftChoice, TheFormatThatDraftsMostForItsTimeIsTaken) {
  const auto format_of = [&](double right8, double right4, const StepTimes& times) {
    const DraftPlan plan =
        Choose({{kBf16, {Offer(right8, true, kInt8), Offer(right4, true, kInt4)}}}, times);
    return plan.choices[0].offer == 0 ? kInt8 : kInt4;
  };
  EXPECT_EQ(format_of(0.97, 0.6, Times(0.03)), kInt8);
  EXPECT_EQ(format_of(0.93, 0.90, Times(0.03)), kInt4);
  EXPECT_EQ(format_of(0.93, 0.90, Times(0.03, 0.4, 0.4)), kInt8);
}

TEST(DraftChoice, PassesThatCostAsMuchAsAStepAreNotRun) {
  EXPECT_FALSE(Choose({{kBf16, {Offer(0.99, true)}}}, Times(0.03, 1.0)).any());
}

TEST(DraftChoice, WhoHasNoDraftsIsNotSlowedDownForOneWhoHas) {
  const StepTimes times = Times(0.03);
  const DraftCandidate candidate{kBf16, {Offer(0.9, true)}};
  EXPECT_TRUE(Choose({candidate}, times).any());
  EXPECT_FALSE(Choose({candidate}, times, 7).any()) << "seven wait for its passes";
  EXPECT_TRUE(Choose(std::vector(8, candidate), times).any()) << "all share them";
  EXPECT_TRUE(Choose({{kBf16, {Offer(0.9)}}}, times, 7).any()) << "a row more is hardly felt";
}

TEST(DraftChoice, FullStepsHaveNoDrafts) {
  const StepTimes times = Times(1);  // twice the rows take twice the time
  const std::vector<DraftCandidate> candidates(32, {kBf16, {Offer(0.9)}});
  EXPECT_FALSE(Choose(candidates, times).any());
  EXPECT_TRUE(Saturated({32, 0, 0, 0}, times));
  EXPECT_FALSE(Saturated({1, 0, 0, 0}, Times(0.03)));
  EXPECT_FALSE(Saturated({4, 0, 0, 0}, Times(0.03)));
}

TEST(DraftChoice, StakesNoMoreThanItMay) {
  const StepTimes times = Times(0.03);
  const std::vector<DraftCandidate> candidates = {{kBf16, {Offer(0.95, true)}}};
  EXPECT_GT(Choose(candidates, times).stake, 2);
  const DraftPlan little = Choose(candidates, times, 0, 0, 1);
  EXPECT_GT(little.choices[0].drafts, 0);
  EXPECT_LE(little.stake, 1);
  EXPECT_FALSE(Choose(candidates, times, 0, 0, 0.1).any());
}

TEST(DraftChoice, TakesNothingThatGainsTooLittle) {
  const std::vector<DraftCandidate> candidates = {{kBf16, {Offer(0.2)}}};
  const DraftPlan plan = Choose(candidates, Times(0.03));
  ASSERT_TRUE(plan.any());
  EXPECT_FALSE(Choose(candidates, Times(0.03), 0, plan.gain * 1.01).any());
}

TEST(DraftChoice, ExploringTakesOneDraftOfEachWhetherOrNotItPays) {
  const StepTimes times = Times(0.03);
  const std::vector<DraftCandidate> candidates = {
      {kBf16, {Offer(0.01)}}, {kBf16, {Offer(0.02, true)}}, {kBf16, {}}};
  const DraftPlan plan = ExploreDrafts(candidates, {3, 0, 0, 0}, times, kAny, /*together=*/false);
  EXPECT_EQ(plan.choices[0].drafts, 1);
  EXPECT_EQ(plan.choices[1].drafts, 1);
  EXPECT_EQ(plan.choices[2].drafts, 0);
  EXPECT_FALSE(ExploreDrafts(candidates, {3, 0, 0, 0}, times, plan.stake * 0.9, false).any());
}

// What a pass is worth that all share is never learned where each draws from its text.
TEST(DraftChoice, ExploringTogetherTakesAPassForAllWhoHaveOneWhateverTheirTextsOffer) {
  const StepTimes times = Times(0.03);
  const std::vector<DraftCandidate> candidates = {{kBf16, {Offer(0.9), Offer(0.02, true)}},
                                                  {kBf16, {Offer(0.9)}}};
  const auto offers = [&](bool together) {
    const auto choices = ExploreDrafts(candidates, {2, 0, 0, 0}, times, kAny, together).choices;
    return std::vector<int32_t>{choices[0].offer, choices[1].offer};
  };
  EXPECT_EQ(offers(false), (std::vector<int32_t>{0, 0}));
  EXPECT_EQ(offers(true), (std::vector<int32_t>{1, 0}));
}

// For one sequence alone, no other plan is better; for many, tokens per second grow by what is
// promised at least.
TEST(DraftChoice, IsTheBestPlanAndKeepsItsPromise) {
  std::mt19937 random(7);
  const auto share = [&] { return static_cast<double>(random() % 1000) / 1000; };
  for (int i = 0; i < 300; ++i) {
    const StepTimes times = Times(std::pow(share(), 3), 0.2 + share(), 0.1 + share());
    std::vector<DraftCandidate> candidates(i % 3 == 0 ? 1 : 1 + random() % 12);
    for (DraftCandidate& candidate : candidates) {
      candidate.format = random() % 4 == 0 ? kInt8 : kBf16;
      if (random() % 2) candidate.offers.push_back(Offer(share(), false, kBf16, 1 + random() % 16));
      if (random() % 2) candidate.offers.push_back(Offer(share(), true, kInt8, 1 + random() % 16));
      if (random() % 2) candidate.offers.push_back(Offer(share(), true, kInt4, 1 + random() % 16));
      if (random() % 2) {
        candidate.offers.push_back(Offer(share(), true, kBf16, 1 + random() % 16));
        candidate.offers.back().pass = kHeadPass;
      }
    }
    const int32_t bystanders = candidates.size() == 1 ? 0 : random() % 4;
    const DraftPlan plan = Choose(candidates, times, bystanders);
    RowsByFormat rows = {bystanders};
    for (const DraftCandidate& c : candidates) ++rows[static_cast<size_t>(c.format)];
    const double base = times.Of(rows);
    const auto n = static_cast<double>(std::accumulate(rows.begin(), rows.end(), 0));
    double tokens = n;
    std::array<std::array<int32_t, kPassKinds>, kMaxDrafts> passes = {};
    for (size_t c = 0; c < candidates.size(); ++c) {
      const DraftChoice& choice = plan.choices[c];
      if (choice.drafts == 0) continue;
      const DraftOffer& offer = candidates[c].offers[choice.offer];
      ASSERT_LE(choice.drafts, offer.most);
      for (int32_t d = 0; d < choice.drafts; ++d) {
        tokens += offer.survival[d];
        if (offer.passes) ++passes[d][offer.pass];
      }
      rows[static_cast<size_t>(candidates[c].format)] += choice.drafts;
    }
    double time = times.Of(rows);
    for (const auto& pass : passes) {
      for (PassKind kind = 0; kind < kPassKinds; ++kind) time += times.Of(kind, pass[kind]);
    }
    const auto drafts = [](const DraftChoice& choice) { return choice.drafts > 0; };
    ASSERT_EQ(plan.any(), std::ranges::any_of(plan.choices, drafts)) << i;
    ASSERT_NEAR(plan.stake, time / base - 1, 1e-6) << i;
    if (plan.any()) {
      ASSERT_GE(std::log(tokens / n) - std::log(time / base), plan.gain - 1e-9) << i;
    }
    if (candidates.size() > 1) continue;
    for (const DraftOffer& offer : candidates[0].offers) {
      double sum = 1;
      for (int32_t d = 1; d <= offer.most; ++d) {
        sum += offer.survival[d - 1];
        RowsByFormat verify = {};
        verify[static_cast<size_t>(candidates[0].format)] = 1 + d;
        const double with = times.Of(verify) + (offer.passes ? d * times.Of(offer.pass, 1) : 0);
        ASSERT_LE(std::log(sum) - std::log(with / base), plan.gain + 1e-9) << i;
      }
    }
  }
}

}  // namespace
}  // namespace skim
