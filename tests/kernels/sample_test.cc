#include "kernels/cpu/sample.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <string>

#include "gtest/gtest.h"
#include "kernels/sample_rng.h"
#include "random_matrix.h"

namespace skim {
namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();
constexpr float kMax = std::numeric_limits<float>::max();

// kernels/sampling.h in double precision with a full sort. Probabilities by token.
std::vector<double> Reference(const SampleRow& row, const std::vector<float>& logits) {
  std::vector<double> x(logits.begin(), logits.end());
  for (const LogitBias& b : row.bias) x[b.token] += b.bias;
  for (const TokenCount& c : row.counts) {
    x[c.token] =
        x[c.token] > 0 ? x[c.token] / row.repetition_penalty : x[c.token] * row.repetition_penalty;
    x[c.token] -= row.frequency_penalty * c.in_output;
    if (c.in_output > 0) x[c.token] -= row.presence_penalty;
  }
  for (TokenId token : row.banned) x[token] = -INFINITY;
  std::vector<TokenId> order(x.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](TokenId a, TokenId b) { return x[a] > x[b]; });
  if (row.top_k > 0 && row.top_k < static_cast<int>(order.size())) order.resize(row.top_k);
  const double max = x[order[0]];
  const auto weight = [&](TokenId t) { return std::exp((x[t] - max) / row.temperature); };
  double total = 0;
  for (TokenId t : order) total += weight(t);
  if (row.top_p < 1) {
    double sum = 0;
    size_t kept = 0;
    while (kept < order.size()) {
      sum += weight(order[kept++]);
      if (sum >= row.top_p * total) break;
    }
    order.resize(kept);
  }
  std::vector<double> p(x.size());
  total = 0;
  for (TokenId t : order) {
    if (weight(t) >= row.min_p) total += p[t] = weight(t);
  }
  for (double& q : p) q /= total;
  return p;
}

class SampleOn : public testing::TestWithParam<Isa> {
 protected:
  // All rows read the same logits.
  std::vector<SampledToken> Run(const std::vector<float>& logits,
                                const std::vector<SampleRow>& rows, int threads = 1) {
    ThreadPool pool(threads, false);
    std::vector<SampledToken> results(rows.size());
    const int64_t vocabulary = static_cast<int64_t>(logits.size());
    CpuSample(pool, GetParam(), scratch_,
              {{logits.data(), static_cast<int64_t>(rows.size()), vocabulary, 0}, rows}, results);
    return results;
  }
  SampledToken One(const std::vector<float>& logits, const SampleRow& row) {
    return Run(logits, {row})[0];
  }

  // Draws at consecutive positions and compares the counts with the reference.
  void ExpectFits(const SampleRow& row, const std::vector<float>& logits) {
    constexpr int kDraws = 100000;
    std::vector<SampleRow> rows(kDraws, row);
    for (int i = 0; i < kDraws; ++i) rows[i].position = i;
    std::vector<int> counts(logits.size());
    for (const SampledToken& s : Run(logits, rows, 2)) {
      ASSERT_NE(s.token, kNoToken);
      ++counts[s.token];
    }
    const std::vector<double> p = Reference(row, logits);
    double chi2 = 0, rare = 0;
    int freedom = -1, rare_count = 0;
    for (size_t t = 0; t < p.size(); ++t) {
      if (p[t] == 0) {
        ASSERT_EQ(counts[t], 0) << "token " << t << " has probability 0";
      } else if (p[t] * kDraws < 10) {
        rare += p[t] * kDraws;
        rare_count += counts[t];
      } else {
        chi2 += std::pow(counts[t] - p[t] * kDraws, 2) / (p[t] * kDraws);
        ++freedom;
      }
    }
    if (rare > 0) {
      chi2 += std::pow(rare_count - rare, 2) / rare;
      ++freedom;
    }
    EXPECT_LT(chi2, freedom + 4 * std::sqrt(2.0 * freedom) + 1) << freedom << " degrees of freedom";
  }

  SampleScratch scratch_;
};

SampleRow Row(float temperature) {
  SampleRow row;
  row.temperature = temperature;
  row.seed = 42;
  return row;
}

std::vector<float> Logits(uint32_t seed, int64_t vocabulary, float spread = 2) {
  std::vector<float> logits = RandomFloats(seed, vocabulary);
  for (float& x : logits) x *= spread;
  return logits;
}

TEST_P(SampleOn, DrawsFromTheWholeDistribution) {
  ExpectFits(Row(1), Logits(1, 300));
  ExpectFits(Row(0.6f), Logits(2, 37));
}

TEST_P(SampleOn, DrawsFromTheTopK) {
  SampleRow row = Row(1);
  row.top_k = 7;
  ExpectFits(row, Logits(4, 300));
}

TEST_P(SampleOn, DrawsFromTheTopP) {
  SampleRow row = Row(0.9f);
  row.top_p = 0.8f;
  ExpectFits(row, Logits(5, 300));
}

TEST_P(SampleOn, DrawsAboveMinP) {
  SampleRow row = Row(1.2f);
  row.min_p = 0.1f;
  ExpectFits(row, Logits(6, 300));
}

TEST_P(SampleOn, AppliesPenaltiesBiasAndBansFirst) {
  const std::vector<TokenCount> counts = {{0, 3, 0}, {5, 0, 2}, {9, 1, 1}, {30, 0, 7}};
  const std::vector<LogitBias> bias = {{5, 2.5f}, {11, 4}, {12, -3}};
  const std::vector<TokenId> banned = {11, 20, 21};
  SampleRow row = Row(1);
  row.repetition_penalty = 1.3f;
  row.frequency_penalty = 0.4f;
  row.presence_penalty = 0.7f;
  row.counts = counts;
  row.bias = bias;
  row.banned = banned;
  ExpectFits(row, Logits(7, 50));
  row.top_k = 20;
  row.top_p = 0.9f;
  row.min_p = 0.02f;
  ExpectFits(row, Logits(8, 50));
}

TEST_P(SampleOn, GivesTheDistributionThatTheReferenceGives) {
  RowScratch scratch;
  for (uint32_t seed = 0; seed < 200; ++seed) {
    const std::vector<float> logits =
        Logits(seed, 1 + seed * 97 % 3000, static_cast<float>(1 + seed % 7));
    SampleRow row = Row(0.3f + 0.1f * static_cast<float>(seed % 13));
    if (seed % 2 == 0) row.top_k = 1 + static_cast<int>(seed * 13 % 200);
    if (seed % 3 == 0) row.top_p = 0.003f * static_cast<float>(seed + 100);
    if (seed % 5 == 0) row.min_p = 0.003f;
    const Distribution got = MakeDistribution(GetParam(), row, logits, scratch);
    const std::vector<double> want = Reference(row, logits);
    for (size_t t = 0; t < want.size(); ++t) {
      ASSERT_NEAR(got.Probability(static_cast<TokenId>(t)), want[t], 2e-6 * want[t] + 1e-12)
          << "seed " << seed << " token " << t;
    }
  }
}

TEST_P(SampleOn, InvertsTheCumulativeDistributionInIdOrder) {
  const std::vector<float> logits = Logits(9, 777);
  RowScratch scratch;
  const Distribution d = MakeDistribution(GetParam(), Row(1), logits, scratch);
  double below = 0;
  for (TokenId t = 0; t < 777; ++t) {
    const double p = d.Probability(t);
    if (p > 1e-9) {
      EXPECT_EQ(d.Draw(below + p / 2), t);
    }
    below += p;
  }
  EXPECT_NEAR(below, 1, 1e-6);
  EXPECT_EQ(d.Draw(std::nextafter(1.0, 0.0)), 776);
}

TEST_P(SampleOn, RepeatsItselfForTheSameSeedWhateverTheBatchAndThreads) {
  const std::vector<float> logits = Logits(10, 5000);
  std::vector<SampleRow> rows;
  for (uint32_t i = 0; i < 64; ++i) {
    SampleRow row = Row(i % 4 == 0 ? 0 : 0.8f);
    row.seed = i / 8;
    row.position = i % 8;
    row.top_k = i % 3 == 0 ? 50 : 0;
    row.top_p = i % 5 == 0 ? 0.9f : 1;
    row.top_logprobs = static_cast<int>(i % 6) - 1;
    rows.push_back(row);
  }
  const auto expected = Run(logits, rows, 1);
  for (int threads : {2, 3}) {
    const auto again = Run(logits, rows, threads);
    for (size_t i = 0; i < rows.size(); ++i) {
      EXPECT_EQ(again[i].token, expected[i].token);
      EXPECT_EQ(again[i].logprob, expected[i].logprob);
      ASSERT_EQ(again[i].top.size(), expected[i].top.size());
      EXPECT_EQ(One(logits, rows[i]).token, expected[i].token);
    }
  }
}

TEST_P(SampleOn, DrawsDifferentlyForAnotherSeedOrPosition) {
  const std::vector<float> logits(1000, 1.0f);
  SampleRow row = Row(1), other_seed = row, other_position = row;
  other_seed.seed = 43;
  other_position.position = 1;
  const auto results = Run(logits, {row, other_seed, other_position});
  EXPECT_NE(results[0].token, results[1].token);
  EXPECT_NE(results[0].token, results[2].token);
}

TEST_P(SampleOn, BreaksTiesInFavourOfTheLowerId) {
  std::vector<float> logits(600, 0.0f);
  for (TokenId t : {17, 300, 599}) logits[t] = 5;
  SampleRow greedy = Row(0);
  greedy.top_logprobs = 5;
  const SampledToken best = One(logits, greedy);
  EXPECT_EQ(best.token, 17);
  const TokenId top[] = {17, 300, 599, 0, 1};
  for (int i = 0; i < 5; ++i) EXPECT_EQ(best.top[i].token, top[i]);
  SampleRow two = Row(1);
  two.top_k = 2;
  for (uint32_t position = 0; position < 50; ++position) {
    two.position = position;
    const TokenId token = One(logits, two).token;
    EXPECT_TRUE(token == 17 || token == 300) << token;
  }
}

TEST_P(SampleOn, IsGreedyInEveryLimit) {
  for (uint32_t seed = 0; seed < 20; ++seed) {
    // Differences that a high temperature rounds away must still order the tokens.
    std::vector<float> logits = Logits(seed, 400, seed % 2 == 0 ? 1e-6f : 3);
    for (float& x : logits) x += 1;
    const TokenId best =
        static_cast<TokenId>(std::max_element(logits.begin(), logits.end()) - logits.begin());
    logits[best] = std::nextafter(logits[best], kInf);  // no tie
    EXPECT_EQ(One(logits, Row(0)).token, best);
    SampleRow top_1 = Row(100), tiny_p = Row(1), zero_p = Row(1);
    top_1.top_k = 1;
    tiny_p.top_p = 1e-30f;
    zero_p.top_p = 0;
    for (SampleRow row : {top_1, tiny_p, zero_p, Row(1e-30f), Row(1e-42f)}) {
      row.seed = seed;
      EXPECT_EQ(One(logits, row).token, best);
    }
  }
}

TEST_P(SampleOn, ReportsLogitsThatAreNotNumbers) {
  for (float bad : {kInf, std::nanf(""), -std::nanf("")}) {
    for (size_t at : {0, 5, 16, 36}) {
      std::vector<float> logits = Logits(11, 37);
      logits[at] = bad;
      for (float temperature : {0.0f, 1.0f}) {
        SampleRow row = Row(temperature);
        row.top_logprobs = 3;
        const SampledToken result = One(logits, row);
        EXPECT_FALSE(result.finite);
        EXPECT_EQ(result.token, kNoToken);
      }
    }
  }
  const SampledToken nothing = One(std::vector<float>(40, -kInf), Row(1));
  EXPECT_FALSE(nothing.finite);
  EXPECT_EQ(nothing.token, kNoToken);
}

TEST_P(SampleOn, NeverDrawsAMinusInfinity) {
  std::vector<float> logits(300, -kInf);
  logits[123] = -3e38f;
  for (float temperature : {0.0f, 1e-30f, 1.0f, 1e30f, kInf}) {
    SampleRow row = Row(temperature);
    EXPECT_EQ(One(logits, row).token, 123);
    row.top_k = 10;
    row.top_p = 0.5f;
    EXPECT_EQ(One(logits, row).token, 123);
  }
}

TEST_P(SampleOn, HasNothingToDrawWhenEverythingIsBanned) {
  const std::vector<float> logits = Logits(12, 40);
  std::vector<TokenId> banned(40);
  std::iota(banned.begin(), banned.end(), 0);
  for (float temperature : {0.0f, 1.0f}) {
    SampleRow row = Row(temperature);
    row.banned = banned;
    row.top_k = 5;
    row.top_logprobs = 2;
    const SampledToken result = One(logits, row);
    EXPECT_EQ(result.token, kNoToken);
    EXPECT_TRUE(result.finite);
    EXPECT_EQ(result.top.size(), 2u);
    row.banned = std::span(banned).first(39);
    EXPECT_EQ(One(logits, row).token, 39);
  }
}

TEST_P(SampleOn, SurvivesExtremeAndUnknownAdjustments) {
  const std::vector<float> logits = {1, 2, 3, kMax};
  const std::vector<LogitBias> up = {{0, kMax}, {1, kInf}, {99, 5}, {-1, 5}};
  const std::vector<LogitBias> down = {{3, -kMax}, {2, -kInf}, {1, std::nanf("")}};
  const std::vector<TokenCount> counts = {{99, 1, 1}, {-7, 1, 1}, {0, 1, 1}};
  for (float temperature : {0.0f, 1e-30f, 1.0f, 1e30f}) {
    SampleRow row = Row(temperature);
    row.bias = up;
    EXPECT_NE(One(logits, row).token, kNoToken);
    row.bias = down;
    const TokenId token = One(logits, row).token;
    EXPECT_TRUE(token == 0 || token == 3) << token;
    row.repetition_penalty = 0;  // 1 / 0: the largest float
    row.counts = counts;
    EXPECT_EQ(One(logits, row).token, 0);
  }
}

TEST_P(SampleOn, ReportsLogProbabilitiesOfTheRawLogits) {
  const std::vector<float> logits = Logits(13, 3001);
  double sum = 0;
  for (float x : logits) sum += std::exp(double{x});
  std::vector<TokenId> order(logits.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(),
                   [&](TokenId a, TokenId b) { return logits[a] > logits[b]; });
  const std::vector<TokenId> banned = {order[0]};
  SampleRow row = Row(0);
  row.banned = banned;
  row.top_logprobs = 20;
  const SampledToken result = One(logits, row);
  EXPECT_EQ(result.token, order[1]);
  EXPECT_NEAR(result.logprob, logits[order[1]] - std::log(sum), 1e-5);
  ASSERT_EQ(result.top.size(), 20u);
  for (int i = 0; i < 20; ++i) {
    EXPECT_EQ(result.top[i].token, order[i]);
    EXPECT_NEAR(result.top[i].logprob, logits[order[i]] - std::log(sum), 1e-5);
  }
}

TEST_P(SampleOn, ScoresANamedTokenInsteadOfDrawing) {
  std::vector<float> logits = Logits(14, 100);
  logits[50] = -kInf;
  SampleRow row = Row(1);
  row.top_logprobs = 0;
  double sum = 0;
  for (float x : logits) sum += std::exp(double{x});
  row.score = 33;
  EXPECT_EQ(One(logits, row).token, 33);
  EXPECT_NEAR(One(logits, row).logprob, logits[33] - std::log(sum), 1e-5);
  EXPECT_TRUE(One(logits, row).top.empty());
  row.score = 50;
  EXPECT_EQ(One(logits, row).logprob, -kInf);
  row.score = 100;
  EXPECT_EQ(One(logits, row).token, kNoToken);
}

TEST_P(SampleOn, ListsNoMoreTokensThanThereAre) {
  SampleRow row = Row(0);
  row.top_logprobs = 20;
  EXPECT_EQ(One({1, 3, 2}, row).top.size(), 3u);
  row.top_k = 1000;
  row.temperature = 1;
  EXPECT_NE(One({1, 3, 2}, row).token, kNoToken);
}

TEST(UniformDraw, DependsOnEveryPartOfItsKey) {
  const double u = UniformDraw(1, 2, DrawPurpose::kToken);
  EXPECT_EQ(u, UniformDraw(1, 2, DrawPurpose::kToken));
  EXPECT_NE(u, UniformDraw(2, 2, DrawPurpose::kToken));
  EXPECT_NE(u, UniformDraw(1, 3, DrawPurpose::kToken));
  EXPECT_NE(u, UniformDraw(1, 2, DrawPurpose{1}));
}

TEST(UniformDraw, IsUniformAlongSeedsAndAlongPositions) {
  constexpr int kDraws = 200000, kCells = 64;
  for (bool along_seeds : {true, false}) {
    int counts[kCells] = {}, pairs[kCells] = {};
    double before = 0.5;
    for (int i = 0; i < kDraws; ++i) {
      const double u = along_seeds ? UniformDraw(i, 7, DrawPurpose::kToken)
                                   : UniformDraw(7, i, DrawPurpose::kToken);
      ASSERT_GE(u, 0);
      ASSERT_LT(u, 1);
      ++counts[static_cast<int>(u * kCells)];
      ++pairs[static_cast<int>(u * 8) * 8 + static_cast<int>(before * 8)];
      before = u;
    }
    for (const int* cells : {counts, pairs}) {
      double chi2 = 0;
      const double expected = static_cast<double>(kDraws) / kCells;
      for (int i = 0; i < kCells; ++i) chi2 += std::pow(cells[i] - expected, 2) / expected;
      EXPECT_LT(chi2, 63 + 4 * std::sqrt(126.0));
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Paths, SampleOn, testing::ValuesIn(SupportedIsas()),
                         [](const auto& info) { return std::string(IsaName(info.param)); });

}  // namespace
}  // namespace skim
