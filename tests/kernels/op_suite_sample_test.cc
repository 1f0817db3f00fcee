// kernels/sampling.h on every backend: the token each u picks, judged in double precision.
#include <cmath>
#include <limits>
#include <numeric>

#include "kernels/sample_rng.h"
#include "tests/kernels/op_suite.h"

namespace skim {
namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();

std::vector<SampledToken> Sample(OpScene& scene, const std::vector<float>& logits,
                                 const std::vector<SampleRow>& rows) {
  const auto vocabulary = static_cast<int64_t>(logits.size());
  std::vector<SampledToken> results(rows.size());
  scene.ops().Sample({{scene.Up(logits), static_cast<int64_t>(rows.size()), vocabulary, 0}, rows},
                     results);
  const absl::Status status = scene.ops().Wait();
  EXPECT_TRUE(status.ok()) << status;
  return results;
}

std::vector<float> Logits(uint32_t seed, int64_t vocabulary) {
  std::vector<float> logits = RandomFloats(seed, vocabulary);
  for (float& x : logits) x *= 2;
  return logits;
}

// The adjusted logits' survivors with their probabilities, by token.
std::vector<double> Reference(const SampleRow& row, const std::vector<float>& logits) {
  std::vector<double> x(logits.begin(), logits.end());
  for (const LogitBias& b : row.bias) x[b.token] += b.bias;
  for (const TokenCount& c : row.counts) {
    x[c.token] =
        x[c.token] > 0 ? x[c.token] / row.repetition_penalty : x[c.token] * row.repetition_penalty;
    x[c.token] -=
        row.frequency_penalty * c.in_output + (c.in_output > 0 ? row.presence_penalty : 0);
  }
  for (TokenId token : row.banned) x[token] = -INFINITY;
  std::vector<TokenId> order(x.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](TokenId a, TokenId b) { return x[a] > x[b]; });
  if (row.top_k > 0) order.resize(std::min<size_t>(row.top_k, order.size()));
  const double max = x[order[0]];
  const auto weight = [&](TokenId t) { return std::exp((x[t] - max) / row.temperature); };
  double total = 0, sum = 0;
  for (TokenId t : order) total += weight(t);
  size_t kept = 0;
  while (kept < order.size() && (kept == 0 || sum < row.top_p * total))
    sum += weight(order[kept++]);
  if (row.top_p < 1) order.resize(kept);
  std::vector<double> p(x.size());
  total = 0;
  for (TokenId t : order) total += p[t] = weight(t) >= row.min_p ? weight(t) : 0;
  for (double& q : p) q /= total;
  return p;
}

TEST_P(OpSuite, EveryDrawInvertsTheCumulativeDistribution) {
  const std::vector<float> logits = Logits(31, 301);
  const std::vector<TokenCount> counts = {{3, 1, 0}, {250, 0, 2}, {300, 1, 1}};
  const std::vector<LogitBias> bias = {{0, 4.0f}, {7, -kInf}, {299, 3.5f}};
  const std::vector<TokenId> banned = {1, 100};
  SampleRow plain;
  plain.temperature = 0.8f;
  std::vector<SampleRow> kinds(7, plain);
  kinds[1].top_k = 5;
  kinds[2].top_p = 0.6f;
  kinds[3].min_p = 0.1f;
  kinds[4].top_k = 40, kinds[4].top_p = 0.9f, kinds[4].min_p = 0.01f;
  kinds[5].counts = counts, kinds[5].repetition_penalty = 1.3f;
  kinds[5].frequency_penalty = 0.5f, kinds[5].presence_penalty = 0.25f;
  kinds[6].bias = bias, kinds[6].banned = banned, kinds[6].top_p = 0.5f;
  std::vector<SampleRow> rows;
  for (const SampleRow& kind : kinds) {
    for (uint32_t position : {1, 2, 3, 4}) {
      rows.push_back(kind);
      rows.back().seed = 99;
      rows.back().position = position;
    }
  }
  const auto results = Sample(scene(), logits, rows);
  for (size_t i = 0; i < rows.size(); ++i) {
    const std::vector<double> p = Reference(rows[i], logits);
    const TokenId token = results[i].token;
    ASSERT_GE(token, 0) << "row " << i;
    ASSERT_GT(p[token], 0) << "row " << i << " drew a token that cannot be drawn";
    const double before = std::accumulate(p.begin(), p.begin() + token, 0.0);
    const double u = UniformDraw(rows[i].seed, rows[i].position, DrawPurpose::kToken);
    EXPECT_LE(before - kOpTolerance.draw, u) << "row " << i;
    EXPECT_GE(before + p[token] + kOpTolerance.draw, u) << "row " << i;
  }
}

// Many rows, and tokens and lists at places of their own: were a step of the order to overtake
// another, some row would show it.
TEST_P(OpSuite, BiasComesBeforePenaltiesAndBothBeforeTheChoice) {
  constexpr int kVocabulary = 301, kRows = 16, kRival = 150;
  std::vector<float> logits(kVocabulary, -1.0f);
  logits[kRival] = 7;
  std::vector<std::vector<LogitBias>> bias(kRows);
  std::vector<std::vector<TokenCount>> counts(kRows);
  std::vector<SampleRow> rows(2 * kRows);
  for (int r = 0; r < kRows; ++r) {
    const TokenId token = 5 + 7 * r;
    bias[r] = {{token, 11.0f}};                // -1 + 11 = 10 beats the rival
    counts[r] = {{299, 0, 0}, {token, 1, 0}};  // 10 / 2 does not; -1 x 2 + 11 would
    rows[r].bias = bias[r];
    rows[kRows + r].bias = bias[r];
    rows[kRows + r].counts = counts[r];
    rows[kRows + r].repetition_penalty = 2;
  }
  const auto results = Sample(scene(), logits, rows);
  for (int r = 0; r < kRows; ++r) {
    EXPECT_EQ(results[r].token, bias[r][0].token);
    EXPECT_EQ(results[kRows + r].token, kRival);
  }
}

TEST_P(OpSuite, GreedyTakesTheFirstOfTheHighest) {
  std::vector<float> logits = Logits(32, 130);
  logits[40] = logits[41] = logits[129] = 50;
  const std::vector<TokenId> banned = {40};
  SampleRow greedy, without;
  without.banned = banned;
  const auto results = Sample(scene(), logits, {greedy, without});
  EXPECT_EQ(results[0].token, 40);
  EXPECT_EQ(results[1].token, 41);
}

TEST_P(OpSuite, TiesAtTopKGoToTheLowerToken) {
  std::vector<float> logits(100, -1.0f);
  for (TokenId t : {10, 20, 30, 40}) logits[t] = 3;
  logits[50] = 4;
  SampleRow row;
  row.temperature = 1;
  row.top_k = 3;  // 50, 10, 20
  std::vector<SampleRow> rows(24, row);
  for (size_t i = 0; i < rows.size(); ++i) rows[i].position = static_cast<uint32_t>(i);
  for (const SampledToken& s : Sample(scene(), logits, rows)) {
    EXPECT_TRUE(s.token == 50 || s.token == 10 || s.token == 20) << s.token;
  }
}

TEST_P(OpSuite, LogProbabilitiesAreThoseOfTheRawLogits) {
  const std::vector<float> logits = Logits(33, 200);
  double sum = 0;
  for (float x : logits) sum += std::exp(double{x});
  const std::vector<TokenId> banned = {5};
  SampleRow draw, score;
  draw.banned = banned;
  draw.top_logprobs = 4;
  score.score = 17;
  score.top_logprobs = 0;
  const auto results = Sample(scene(), logits, {draw, score});
  std::vector<TokenId> order(logits.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(),
                   [&](TokenId a, TokenId b) { return logits[a] > logits[b]; });
  ASSERT_EQ(results[0].top.size(), 4u);
  for (size_t i = 0; i < 4; ++i) {
    EXPECT_EQ(results[0].top[i].token, order[i]);
    EXPECT_NEAR(results[0].top[i].logprob, logits[order[i]] - std::log(sum), kOpTolerance.logprob);
  }
  EXPECT_NEAR(results[0].logprob, logits[results[0].token] - std::log(sum), kOpTolerance.logprob);
  EXPECT_EQ(results[1].token, 17);
  EXPECT_NEAR(results[1].logprob, logits[17] - std::log(sum), kOpTolerance.logprob);
  EXPECT_TRUE(results[1].top.empty());
}

TEST_P(OpSuite, ColumnsStandForTokensOfTheirOwn) {
  const std::vector<TokenId> shared = {30, 40}, own = {7, 8, 9, 1, kNoToken, 2};
  const std::vector<float> logits = {1, 0, 5, 4,     -kInf,  // the row's own: 7, 8, 9
                                     0, 6, 5, -kInf, 7};
  const std::vector<TokenId> banned = {4};  // the second row's 2
  std::vector<SampleRow> rows(2);
  for (SampleRow& row : rows) row.top_logprobs = 3;
  rows[1].banned = banned;
  TokenId* const drawn = scene().Room<TokenId>(2);
  std::vector<SampledToken> results(2);
  const ColumnTokens columns = {scene().Up(shared), 2, scene().Up(own)};
  ops().Sample({{scene().Up(logits), 2, 5, 5}, rows, columns, drawn}, results);
  ASSERT_TRUE(ops().Wait().ok());
  const auto top = [&](size_t row) {
    std::vector<TokenId> tokens;
    for (const TokenLogprob& entry : results[row].top) tokens.push_back(entry.token);
    return tokens;
  };
  EXPECT_EQ(results[0].token, 7);
  EXPECT_EQ(top(0), (std::vector<TokenId>{7, 8, 30}));
  EXPECT_EQ(results[1].token, 40);
  EXPECT_EQ(top(1), (std::vector<TokenId>{2, 40, 1}));
  EXPECT_EQ(scene().Down(drawn, 2), (std::vector<TokenId>{7, 40}));
}

TEST_P(OpSuite, WhatWasDrawnCanBeEmbeddedBeforeAnybodyWaits) {
  const auto table = RandomBf16(1, 50, 24, 1, 3);
  const auto packed = scene().Pack(table, WeightShape::kPlain);
  std::vector<float> logits(3 * 50, -1.0f);
  logits[33] = logits[50 + 4] = 2;
  logits[2 * 50] = kInf;  // nothing can be drawn there
  const std::vector<TokenId> tokens = {PendingToken(1), 17, PendingToken(0), PendingToken(2)};
  TokenId* const drawn = scene().Room<TokenId>(3);
  TestMatrix<float> y(4, 24, 0, 0);
  const auto device = scene().Up(y);
  const TokenId* const device_tokens = scene().Up(tokens);
  const float* const device_logits = scene().Up(logits);
  const std::vector<SampleRow> rows(3);
  std::vector<SampledToken> results(3);
  ops().Sample({{device_logits, 3, 50, 50}, rows, {}, drawn}, results);
  ops().Embed(*packed, device_tokens, drawn, device);
  scene().Down(device, &y);
  EXPECT_EQ(scene().Down(drawn, 3), (std::vector<TokenId>{33, 4, kNoToken}));
  EXPECT_FALSE(results[2].finite);
  const std::vector<TokenId> named = {4, 17, 33, 0};  // any token in place of none
  for (int64_t r = 0; r < 4; ++r) {
    for (int64_t c = 0; c < 24; ++c) ASSERT_EQ(y.at(r, c), ToFloat(table.at(named[r], c))) << r;
  }
}

TEST_P(OpSuite, UnusableLogitsAreReported) {
  for (float bad : {std::nanf(""), kInf}) {
    std::vector<float> logits = Logits(34, 70);
    logits[69] = bad;
    EXPECT_FALSE(Sample(scene(), logits, {SampleRow()})[0].finite);
  }
  const std::vector<float> nothing(70, -kInf);
  EXPECT_FALSE(Sample(scene(), nothing, {SampleRow()})[0].finite);
  std::vector<float> one = nothing;
  one[66] = -3;
  SampleRow row;
  row.temperature = 1;
  const auto results = Sample(scene(), one, {SampleRow(), row});
  for (const SampledToken& s : results) {
    EXPECT_TRUE(s.finite);
    EXPECT_EQ(s.token, 66);
  }
}

}  // namespace
}  // namespace skim
