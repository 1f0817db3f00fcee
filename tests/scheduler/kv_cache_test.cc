#include "scheduler/kv_cache.h"

#include <gtest/gtest.h>

#include <numeric>
#include <vector>

namespace skim {
namespace {

constexpr int32_t kPageTokens = 4;

KvGeometry Geometry(int32_t pages, std::vector<int32_t> units = {1}) {
  return {.page_tokens = kPageTokens,
          .total_pages = pages,
          .segment_units = std::move(units),
          .boundaries = {},
          .layers = 2};
}

std::vector<TokenId> Count(int32_t tokens, TokenId first = 1) {
  std::vector<TokenId> out(tokens);
  std::iota(out.begin(), out.end(), first);
  return out;
}

// A sequence that has computed all of `tokens`, published and still held.
KvHoldings Computed(KvCache* cache, const CacheDomain& domain, const std::vector<TokenId>& tokens) {
  KvHoldings kv;
  cache->Grow(cache->FullExtent(static_cast<int64_t>(tokens.size())), &kv);
  cache->Publish(domain, tokens, static_cast<int32_t>(tokens.size()), &kv);
  return kv;
}

TEST(KvCache, FindsTheFullBlocksOfAKnownPrefix) {
  KvCache cache(Geometry(8), true);
  KvHoldings kv = Computed(&cache, {}, Count(11));
  EXPECT_EQ(cache.Match({}, Count(11)).size(), 2u);  // the third block is not full
  EXPECT_EQ(cache.Match({}, Count(7)).size(), 1u);
  EXPECT_EQ(cache.Match({}, Count(11, 2)).size(), 0u);
  cache.Release(&kv);
  EXPECT_EQ(cache.ledger().cached(), 2);
  EXPECT_EQ(cache.ledger().owned(), 0);
  EXPECT_EQ(cache.Match({}, Count(11)).size(), 2u);
}

TEST(KvCache, AHitLeavesAtLeastOneTokenToCompute) {
  KvCache cache(Geometry(8), true);
  Computed(&cache, {}, Count(8));
  EXPECT_EQ(cache.Match({}, Count(8)).size(), 1u);
  EXPECT_EQ(cache.Match({}, Count(9)).size(), 2u);
  EXPECT_EQ(cache.Match({}, Count(4)).size(), 0u);
}

TEST(KvCache, SharesNothingAcrossSaltsFormatsAndProfiles) {
  KvCache cache(Geometry(8), true);
  Computed(&cache, {.salt = "a"}, Count(9));
  EXPECT_EQ(cache.Match({.salt = "a"}, Count(9)).size(), 2u);
  EXPECT_TRUE(cache.Match({.salt = "b"}, Count(9)).empty());
  EXPECT_TRUE(cache.Match({.salt = ""}, Count(9)).empty());
  EXPECT_TRUE(cache.Match({.salt = "a", .weight_format = WeightFormat::kInt8}, Count(9)).empty());
  EXPECT_TRUE(cache.Match({.salt = "a", .prune_profile = 1}, Count(9)).empty());
}

// The hash is never trusted: here every block of every domain collides.
TEST(KvCache, ACollisionIsAMissAndNeverForeignContent) {
  KvCache cache(Geometry(16), true, [](uint64_t, std::span<const TokenId>) { return uint64_t{7}; });
  KvHoldings first = Computed(&cache, {.salt = "a"}, Count(9));
  EXPECT_EQ(first.published.size(), 1u);  // its own second block collides with its first
  EXPECT_EQ(cache.Match({.salt = "a"}, Count(9)).size(), 1u);
  EXPECT_TRUE(cache.Match({.salt = "b"}, Count(9)).empty());
  EXPECT_TRUE(cache.Match({.salt = "a"}, Count(9, 2)).empty());
  // The same block twice: the second is behind the first, hence another block.
  std::vector<TokenId> twice = Count(4);
  twice.insert(twice.end(), {1, 2, 3, 4, 5});
  EXPECT_EQ(cache.Match({.salt = "a"}, twice).size(), 1u);
  KvHoldings other = Computed(&cache, {.salt = "b"}, Count(9));
  EXPECT_TRUE(other.published.empty());
  cache.Release(&first);
  cache.Release(&other);
  EXPECT_EQ(cache.ledger().owned(), 0);
  EXPECT_EQ(cache.ledger().cached(), 1);
}

TEST(KvCache, TwoThatComputedTheSameEndUpSharingIt) {
  KvCache cache(Geometry(8, {2, 1}), true);
  KvHoldings first;
  KvHoldings second;
  cache.Grow(cache.FullExtent(4), &first);
  cache.Grow(cache.FullExtent(4), &second);
  EXPECT_EQ(cache.ledger().owned(), 6);
  cache.Publish({}, Count(4), 4, &first);
  cache.Publish({}, Count(4), 4, &second);
  EXPECT_EQ(cache.ledger().owned(), 3);
  for (size_t s = 0; s < 2; ++s) EXPECT_EQ(first.segments[s].pages, second.segments[s].pages);
  cache.Release(&first);
  EXPECT_EQ(cache.ledger().owned(), 3);
  cache.Release(&second);
  EXPECT_EQ(cache.ledger().cached(), 3);
}

TEST(KvCache, AdoptedPagesKeepTheOrderOfSegmentsAndUnits) {
  KvCache cache(Geometry(24, {2, 1, 3}), true);
  KvHoldings kv = Computed(&cache, {}, Count(9));
  KvHoldings adopted;
  cache.Adopt(cache.Match({}, Count(9)), &adopted);
  ASSERT_EQ(adopted.blocks, 2);
  for (size_t s = 0; s < 3; ++s) {
    const std::vector<PageId>& all = kv.segments[s].pages;
    const std::vector<PageId>& shared = adopted.segments[s].pages;
    ASSERT_LT(shared.size(), all.size());
    EXPECT_TRUE(std::equal(shared.begin(), shared.end(), all.begin()));
  }
}

TEST(KvCache, EvictsTheLeastRecentlyUsedAndEndsBeforeBeginnings) {
  KvCache cache(Geometry(5), true);
  KvHoldings old_one = Computed(&cache, {}, Count(8));
  KvHoldings new_one = Computed(&cache, {}, Count(8, 100));
  cache.Release(&old_one);
  cache.Release(&new_one);
  EXPECT_EQ(cache.ledger().free(), 1);

  KvHoldings kv;
  cache.Grow(cache.FullExtent(8), &kv);  // needs one page more than there are free
  EXPECT_EQ(cache.Match({}, Count(9)).size(), 1u);
  EXPECT_EQ(cache.Match({}, Count(9, 100)).size(), 2u);
  cache.Grow(cache.FullExtent(16), &kv);
  EXPECT_EQ(cache.Match({}, Count(9)).size(), 0u);
  EXPECT_EQ(cache.Match({}, Count(9, 100)).size(), 1u);
}

TEST(KvCache, SharesNothingWhenToldNotTo) {
  KvCache cache(Geometry(8), false);
  KvHoldings kv = Computed(&cache, {}, Count(9));
  EXPECT_TRUE(cache.Match({}, Count(9)).empty());
  cache.Release(&kv);
  EXPECT_EQ(cache.ledger().free(), 8);
}

}  // namespace
}  // namespace skim
