#include "scheduler/fair_share.h"

#include <gtest/gtest.h>

#include <string>

namespace skim {
namespace {

TEST(FairShare, ANewcomerStartsAtTheLeastOfThosePresent) {
  FairShare share;
  const auto a = share.Join("a");
  const auto b = share.Join("b");
  share.Charge(a, 100);
  share.Charge(b, 40);
  const auto c = share.Join("c");
  EXPECT_EQ(share.served()[c], 40);
}

TEST(FairShare, BeingAwayGivesNoClaimOnThePast) {
  FairShare share;
  const auto a = share.Join("a");
  share.Leave(share.Join("b"));
  share.Charge(a, 1000);
  EXPECT_EQ(share.served()[share.Join("b")], 1000);
}

TEST(FairShare, LeavingDoesNotWipeOutWhatWasServed) {
  FairShare share;
  share.Join("other");
  const auto a = share.Join("a");
  share.Charge(a, 500);
  share.Leave(a);
  EXPECT_EQ(share.served()[share.Join("a")], 500);
}

TEST(FairShare, RemembersABoundedNumberOfAbsentTenants) {
  FairShare share(8);
  const auto present = share.Join("present");
  share.Charge(present, 7);
  for (int i = 0; i < 1000; ++i) {
    share.Leave(share.Join("tenant " + std::to_string(i)));
    ASSERT_LE(share.remembered(), 10u);
  }
  EXPECT_LE(share.served().size(), 11u);
  EXPECT_EQ(share.served()[present], 7);
}

}  // namespace
}  // namespace skim
