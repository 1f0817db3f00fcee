#include "engine/draft_candidates.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <numeric>

#include "engine/sample_rows.h"

namespace skim {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

constexpr int32_t kVocabulary = 10000;
constexpr TokenId kCommon = 3;  // of the subset, with 6

DraftCandidates Candidates(bool with_own = true) {
  return DraftCandidates(TokenSubset({kCommon, 6}, kVocabulary), with_own);
}

PlanSequence Text(std::span<const TokenId> tokens, std::span<const TokenId> drafts = {}) {
  PlanSequence sequence;
  sequence.tokens = tokens;
  sequence.drafts = drafts;
  return sequence;
}

std::vector<TokenId> OwnOf(const DraftCandidates& candidates, size_t row) {
  const auto most = static_cast<size_t>(candidates.own_columns());
  std::vector<TokenId> own;
  for (const TokenId token : candidates.own().subspan(row * most, most)) {
    if (token != kNoToken) own.push_back(token);
  }
  return own;
}

TEST(DraftCandidates, OwnTokensAreThoseBeforeThePositionOutsideTheVocabularyNewestFirst) {
  DraftCandidates candidates = Candidates();
  const std::vector<TokenId> tokens = {5, 7, kCommon, 5, 9}, drafts = {11, 12};
  EXPECT_THAT(candidates.Add(Text(tokens, drafts), 6).ids(), ElementsAre(3, 6, 11, 9, 5, 7));
  EXPECT_THAT(candidates.Add(Text(tokens, drafts), 5).ids(), ElementsAre(3, 6, 9, 5, 7));
  EXPECT_THAT(OwnOf(candidates, 0), ElementsAre(11, 9, 5, 7));
  EXPECT_THAT(OwnOf(candidates, 1), ElementsAre(9, 5, 7));
}

TEST(DraftCandidates, NoRowHasWhatStandsInAnothersText) {
  DraftCandidates candidates = Candidates();
  const std::vector<TokenId> one = {20, 21}, other = {30, 20};
  candidates.Add(Text(one), 2);
  const TokenSubset& columns = candidates.Add(Text(other), 2);
  EXPECT_EQ(columns.ColumnOf(21), kNoToken);
  EXPECT_EQ(columns.ColumnOf(20), 2);
  EXPECT_EQ(columns.ColumnOf(30), 3);
  EXPECT_THAT(OwnOf(candidates, 0), ElementsAre(21, 20));
  EXPECT_THAT(OwnOf(candidates, 1), ElementsAre(20, 30));
  candidates.Clear();
  EXPECT_THAT(candidates.own(), IsEmpty());
}

TEST(DraftCandidates, OwnTokensAreTheNewestOfABoundedPartOfTheText) {
  DraftCandidates candidates = Candidates();
  constexpr int32_t kMany = DraftCandidates::kMostOwn + 50;
  std::vector<TokenId> tokens(kMany);
  std::iota(tokens.begin(), tokens.end(), 100);
  candidates.Add(Text(tokens), kMany);
  const std::vector<TokenId> own = OwnOf(candidates, 0);
  ASSERT_EQ(own.size(), static_cast<size_t>(DraftCandidates::kMostOwn));
  EXPECT_EQ(own.front(), tokens.back());
  EXPECT_EQ(own.back(), tokens[50]);
  // What is older than the others together counts no more.
  std::vector<TokenId> old = {50, 51};
  old.resize(DraftCandidates::kOwnText + 1, kCommon);
  candidates.Add(Text(old), DraftCandidates::kOwnText + 1);
  EXPECT_THAT(OwnOf(candidates, 1), ElementsAre(51));
}

TEST(DraftCandidates, WithoutOwnTokensTheVocabularyIsAllThereIs) {
  DraftCandidates candidates = Candidates(/*with_own=*/false);
  const std::vector<TokenId> tokens = {5, 7};
  EXPECT_THAT(candidates.Add(Text(tokens), 2).ids(), ElementsAre(3, 6));
  EXPECT_THAT(candidates.own(), IsEmpty());
}

TEST(DraftCandidates, PendingDraftsAreLeftOut) {
  DraftCandidates candidates = Candidates();
  const std::vector<TokenId> tokens = {5, 7}, drafts = {11, PendingToken(0), PendingToken(7)};
  EXPECT_THAT(candidates.Add(Text(tokens, drafts), 5).ids(), ElementsAre(3, 6, 11, 7, 5));
}

TEST(DraftCandidates, SamplingOptionsHoldForOwnTokensToo) {
  DraftCandidates candidates = Candidates();
  const std::vector<TokenId> tokens = {5, 7, 5};
  SamplingParams params;
  params.frequency_penalty = 0.5f;
  params.bias = {{7, 1.5f}, {8, 9.0f}};
  params.stop_tokens = {5, 9};
  params.min_tokens = 4;
  PlanSequence sequence = Text(tokens);
  sequence.sampling = &params;
  sequence.prompt_tokens = 2;
  SampleRows rows(kVocabulary);
  rows.AddDraw(sequence, 3, candidates.Add(sequence, 3));
  const SampleRow& row = rows.rows()[0];
  ASSERT_EQ(row.counts.size(), 2u);  // columns: 3, 6, then 5, 7
  EXPECT_EQ(row.counts[0].token, 2);
  EXPECT_EQ(row.counts[0].in_output, 1);
  EXPECT_EQ(row.counts[1].token, 3);
  ASSERT_EQ(row.bias.size(), 1u);
  EXPECT_EQ(row.bias[0].token, 3);
  EXPECT_THAT(row.banned, ElementsAre(2));
}

}  // namespace
}  // namespace skim
