#include "scheduler/kv_ledger.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <vector>

namespace skim {
namespace {

TEST(KvLedger, StartsWithEveryPageFree) {
  const KvLedger ledger(5);
  EXPECT_EQ(ledger.free(), 5);
  EXPECT_EQ(ledger.owned(), 0);
  EXPECT_EQ(ledger.cached(), 0);
}

TEST(KvLedger, KeepsAnIndexedPageWhenItsLastOwnerLeaves) {
  KvLedger ledger(2);
  std::vector<PageId> pages;
  ledger.Allocate(1, &pages);
  ledger.SetIndexed(pages[0], true);
  ledger.Share(pages[0]);
  ledger.Release(pages[0]);
  EXPECT_EQ(ledger.owned(), 1);
  ledger.Release(pages[0]);
  EXPECT_EQ(ledger.cached(), 1);
  EXPECT_EQ(ledger.owned(), 0);
  ledger.SetIndexed(pages[0], false);
  EXPECT_EQ(ledger.free(), 2);
}

// G4 against a plain model of the three states.
TEST(KvLedger, FreeCachedAndOwnedAddUpUnderRandomUse) {
  constexpr int32_t kTotal = 17;
  for (uint32_t seed = 0; seed < 20; ++seed) {
    SCOPED_TRACE(seed);
    std::mt19937 random(seed);
    KvLedger ledger(kTotal);
    std::vector<int32_t> owners(kTotal, 0);
    std::vector<bool> indexed(kTotal, false);
    for (int step = 0; step < 2000; ++step) {
      const PageId page = static_cast<PageId>(random() % kTotal);
      switch (random() % 4) {
        case 0: {
          const auto count = static_cast<int32_t>(random() % 3);
          if (count > ledger.free()) break;
          std::vector<PageId> got;
          ledger.Allocate(count, &got);
          for (const PageId fresh : got) {
            ASSERT_EQ(owners[fresh], 0);
            ASSERT_FALSE(indexed[fresh]);
            owners[fresh] = 1;
          }
          break;
        }
        case 1:
          if (owners[page] == 0 && !indexed[page]) break;
          ledger.Share(page);
          ++owners[page];
          break;
        case 2:
          if (owners[page] == 0) break;
          ledger.Release(page);
          --owners[page];
          break;
        case 3:
          if (!indexed[page] && owners[page] == 0) break;
          indexed[page] = !indexed[page];
          ledger.SetIndexed(page, indexed[page]);
          break;
      }
      int32_t free = 0;
      int32_t cached = 0;
      for (int32_t i = 0; i < kTotal; ++i) {
        ASSERT_EQ(ledger.owners(i), owners[i]);
        free += owners[i] == 0 && !indexed[i];
        cached += owners[i] == 0 && indexed[i];
      }
      ASSERT_EQ(ledger.free(), free);
      ASSERT_EQ(ledger.cached(), cached);
      ASSERT_EQ(ledger.free() + ledger.cached() + ledger.owned(), ledger.total());
    }
  }
}

}  // namespace
}  // namespace skim
