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

// Of a sequence that has nothing yet.
KvHoldings Empty(const KvCache& cache) {
  KvHoldings kv;
  kv.shared = cache.WholeBlocks();
  return kv;
}

std::vector<PrefixIndex::NodeId> Match(const KvCache& cache, const CacheDomain& domain,
                                       const std::vector<TokenId>& tokens) {
  return cache.Match(domain, cache.WholeBlocks(), tokens);
}

// A sequence that has computed all of `tokens`, published and still held.
KvHoldings Computed(KvCache* cache, const CacheDomain& domain, const std::vector<TokenId>& tokens) {
  KvHoldings kv = Empty(*cache);
  cache->Grow(cache->FullExtent(static_cast<int64_t>(tokens.size())), &kv);
  cache->Publish(domain, tokens, static_cast<int32_t>(tokens.size()), &kv);
  return kv;
}

TEST(KvCache, FindsTheFullBlocksOfAKnownPrefix) {
  KvCache cache(Geometry(8), true);
  KvHoldings kv = Computed(&cache, {}, Count(11));
  EXPECT_EQ(Match(cache, {}, Count(11)).size(), 2u);  // the third block is not full
  EXPECT_EQ(Match(cache, {}, Count(7)).size(), 1u);
  EXPECT_EQ(Match(cache, {}, Count(11, 2)).size(), 0u);
  cache.Release(&kv);
  EXPECT_EQ(cache.ledger().cached(), 2);
  EXPECT_EQ(cache.ledger().owned(), 0);
  EXPECT_EQ(Match(cache, {}, Count(11)).size(), 2u);
}

TEST(KvCache, AHitLeavesAtLeastOneTokenToCompute) {
  KvCache cache(Geometry(8), true);
  Computed(&cache, {}, Count(8));
  EXPECT_EQ(Match(cache, {}, Count(8)).size(), 1u);
  EXPECT_EQ(Match(cache, {}, Count(9)).size(), 2u);
  EXPECT_EQ(Match(cache, {}, Count(4)).size(), 0u);
}

TEST(KvCache, SharesNothingAcrossSaltsFormatsAndProfiles) {
  KvCache cache(Geometry(8), true);
  Computed(&cache, {.salt = "a"}, Count(9));
  EXPECT_EQ(Match(cache, {.salt = "a"}, Count(9)).size(), 2u);
  EXPECT_TRUE(Match(cache, {.salt = "b"}, Count(9)).empty());
  EXPECT_TRUE(Match(cache, {.salt = ""}, Count(9)).empty());
  EXPECT_TRUE(Match(cache, {.salt = "a", .weight_format = WeightFormat::kInt8}, Count(9)).empty());
  EXPECT_TRUE(Match(cache, {.salt = "a", .end_layer = 1}, Count(9)).empty());
}

// A collision would be a miss, for good: no two of these domains may have the same hash.
TEST(KvCache, EveryFormatAndFirstCutHasAPlaceOfItsOwn) {
  KvCache cache(Geometry(1000), true);
  for (int32_t end_layer = 0; end_layer < 64; ++end_layer) {
    for (int32_t format = 0; format < kWeightFormats; ++format) {
      const CacheDomain domain = {
          .salt = {}, .weight_format = static_cast<WeightFormat>(format), .end_layer = end_layer};
      Computed(&cache, domain, Count(5));
      EXPECT_EQ(Match(cache, domain, Count(5)).size(), 1u) << end_layer << " " << format;
    }
  }
}

// The hash is never trusted: here every block of every domain collides.
TEST(KvCache, ACollisionIsAMissAndNeverForeignContent) {
  KvCache cache(Geometry(16), true, [](uint64_t, std::span<const TokenId>) { return uint64_t{7}; });
  KvHoldings first = Computed(&cache, {.salt = "a"}, Count(9));
  EXPECT_EQ(first.published.size(), 1u);  // its own second block collides with its first
  EXPECT_EQ(Match(cache, {.salt = "a"}, Count(9)).size(), 1u);
  EXPECT_TRUE(Match(cache, {.salt = "b"}, Count(9)).empty());
  EXPECT_TRUE(Match(cache, {.salt = "a"}, Count(9, 2)).empty());
  // The same block twice: the second is behind the first, hence another block.
  std::vector<TokenId> twice = Count(4);
  twice.insert(twice.end(), {1, 2, 3, 4, 5});
  EXPECT_EQ(Match(cache, {.salt = "a"}, twice).size(), 1u);
  KvHoldings other = Computed(&cache, {.salt = "b"}, Count(9));
  EXPECT_TRUE(other.published.empty());
  cache.Release(&first);
  cache.Release(&other);
  EXPECT_EQ(cache.ledger().owned(), 0);
  EXPECT_EQ(cache.ledger().cached(), 1);
}

TEST(KvCache, TwoThatComputedTheSameEndUpSharingIt) {
  KvCache cache(Geometry(8, {2, 1}), true);
  KvHoldings first = Empty(cache);
  KvHoldings second = Empty(cache);
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
  cache.Adopt(Match(cache, {}, Count(9)), cache.WholeBlocks(), &adopted);
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

  KvHoldings kv = Empty(cache);
  cache.Grow(cache.FullExtent(8), &kv);  // needs one page more than there are free
  EXPECT_EQ(Match(cache, {}, Count(9)).size(), 1u);
  EXPECT_EQ(Match(cache, {}, Count(9, 100)).size(), 2u);
  cache.Grow(cache.FullExtent(16), &kv);
  EXPECT_EQ(Match(cache, {}, Count(9)).size(), 0u);
  EXPECT_EQ(Match(cache, {}, Count(9, 100)).size(), 1u);
}

// Pruned prompts: two segments, of which the first is shared, with two hidden pages a block.
class PrunedKvCache : public ::testing::Test {
 protected:
  static constexpr CacheDomain kDomain = {.salt = {}, .end_layer = 1};
  static constexpr SharedPart kShared = {.segments = 1, .hidden = true};

  static KvGeometry PrunedGeometry(int32_t pages) {
    KvGeometry geometry = Geometry(pages, {1, 1});
    geometry.boundaries = {1};
    geometry.hidden_rows_per_page = 2;
    return geometry;
  }

  // Holds 9 tokens in the first segment, their hidden rows, and 3 tokens above.
  static KvHoldings Pruned(KvCache* cache) {
    KvHoldings kv;
    cache->Adopt({}, kShared, &kv);
    cache->Grow({.slots = {9, 3}, .hidden_pages = 5}, &kv);
    cache->Publish(kDomain, Count(9), 9, &kv);
    return kv;
  }
  static std::vector<PrefixIndex::NodeId> Hits(const KvCache& cache, int32_t least_left = 1) {
    return cache.Match(kDomain, kShared, Count(9), least_left);
  }
};

TEST_F(PrunedKvCache, SharesTheFirstSegmentWithItsHiddenRowsAndNothingElse) {
  KvCache cache(PrunedGeometry(20), true);
  KvHoldings kv = Pruned(&cache);
  EXPECT_EQ(Hits(cache).size(), 2u);
  EXPECT_EQ(Hits(cache, 2).size(), 1u);  // the rows that score are left to compute
  EXPECT_TRUE(Match(cache, {}, Count(9)).empty());
  EXPECT_EQ(cache.PagesOf(Hits(cache), kShared), 2 + 4);

  KvHoldings adopted;
  cache.Adopt(Hits(cache), kShared, &adopted);
  EXPECT_EQ(cache.ledger().owned(), 3 + 1 + 5);  // not one more
  EXPECT_TRUE(std::equal(adopted.hidden.begin(), adopted.hidden.end(), kv.hidden.begin()));
  EXPECT_EQ(adopted.hidden.size(), 4u);
  EXPECT_TRUE(adopted.segments[1].pages.empty());

  cache.Release(&kv);
  cache.Release(&adopted);
  EXPECT_EQ(cache.ledger().owned(), 0);
  EXPECT_EQ(cache.ledger().cached(), 6);
}

TEST_F(PrunedKvCache, HiddenRowsThatNobodyNeedsAreEvictedWhileTheirBlockIsInUse) {
  KvCache cache(PrunedGeometry(9), true);
  KvHoldings kv = Pruned(&cache);
  EXPECT_EQ(cache.Available(), 0);
  cache.ReleaseAllHidden(&kv);
  EXPECT_EQ(cache.Available(), 5);
  EXPECT_EQ(cache.ledger().cached(), 4);
  EXPECT_EQ(Hits(cache).size(), 2u);

  KvHoldings other = Empty(cache);
  cache.Grow(cache.FullExtent(4), &other);  // evicts those of the last block first
  EXPECT_EQ(Hits(cache).size(), 1u);
  cache.Grow(cache.FullExtent(8), &other);
  EXPECT_TRUE(Hits(cache).empty());

  // Who computes the block again gives it its hidden rows back.
  cache.Release(&other);
  KvHoldings again;
  cache.Adopt({}, kShared, &again);
  cache.Grow({.slots = {4, 0}, .hidden_pages = 2}, &again);
  cache.Publish(kDomain, Count(9), 4, &again);
  EXPECT_EQ(Hits(cache).size(), 1u);
  EXPECT_EQ(again.segments[0].pages[0], kv.segments[0].pages[0]);
  cache.Release(&again);
  cache.Release(&kv);
  EXPECT_EQ(cache.ledger().owned(), 0);
  EXPECT_EQ(cache.ledger().free() + cache.ledger().cached(), 9);
}

TEST_F(PrunedKvCache, ABlockIsEvictedWithItsHiddenRows) {
  KvCache cache(PrunedGeometry(9), true);
  KvHoldings kv = Pruned(&cache);
  cache.Release(&kv);
  KvHoldings other = Empty(cache);
  cache.Grow(cache.FullExtent(16), &other);
  EXPECT_EQ(cache.ledger().owned(), 8);
  EXPECT_TRUE(Hits(cache).empty());
  cache.Release(&other);
  EXPECT_EQ(cache.ledger().owned(), 0);
}

TEST_F(PrunedKvCache, TwoThatComputedTheSameShareTheHiddenRowsToo) {
  KvCache cache(PrunedGeometry(20), true);
  KvHoldings first = Pruned(&cache), second = Pruned(&cache);
  EXPECT_EQ(cache.ledger().owned(), 2 * (3 + 1 + 5) - 6);
  EXPECT_TRUE(std::equal(first.hidden.begin(), first.hidden.begin() + 4, second.hidden.begin()));
  const std::vector<int32_t> block = {0};
  cache.ReleaseHidden(block, {}, &first);
  EXPECT_EQ(first.hidden_pages(), 3);
  EXPECT_EQ(cache.ledger().owned(), 12);  // the other still needs them
  cache.ReleaseHidden(block, {}, &second);
  EXPECT_EQ(cache.ledger().owned(), 10);
  cache.Release(&first);
  cache.Release(&second);
  EXPECT_EQ(cache.ledger().owned(), 0);
}

TEST(KvCache, SharesNothingWhenToldNotTo) {
  KvCache cache(Geometry(8), false);
  KvHoldings kv = Computed(&cache, {}, Count(9));
  EXPECT_TRUE(Match(cache, {}, Count(9)).empty());
  cache.Release(&kv);
  EXPECT_EQ(cache.ledger().free(), 8);
}

}  // namespace
}  // namespace skim
