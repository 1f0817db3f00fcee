#include "scheduler/acceptance.h"

#include <gtest/gtest.h>

namespace skim {
namespace {

TEST(Acceptance, IsWhatIsExpectedBeforeAnythingIsKnown) {
  EXPECT_EQ(Acceptance().At(0, 0.7), 0.7);
  EXPECT_EQ(Acceptance().At(kMaxDrafts - 1, 0.2), 0.2);
}

TEST(Acceptance, FollowsWhatWasSeenPlaceByPlace) {
  Acceptance acceptance;
  for (int i = 0; i < 100; ++i) acceptance.Add(4, 2);
  EXPECT_GT(acceptance.At(0, 0.5), 0.8);
  EXPECT_GT(acceptance.At(1, 0.5), 0.8);
  EXPECT_LT(acceptance.At(2, 0.5), 0.2);
  EXPECT_EQ(acceptance.At(3, 0.5), 0.5) << "no draft was judged behind a wrong one";
}

TEST(Acceptance, ForgetsWhatIsLongPast) {
  Acceptance quick(0.8), slow(0.99);
  for (Acceptance* acceptance : {&quick, &slow}) {
    for (int i = 0; i < 50; ++i) acceptance->Add(1, 1);
    for (int i = 0; i < 10; ++i) acceptance->Add(1, 0);
  }
  EXPECT_LT(quick.At(0, 0.5), 0.4);
  EXPECT_GT(slow.At(0, 0.5), 0.6);
}

TEST(Acceptance, ARoundThatEndedWithAnAcceptedDraftRejectedNone) {
  Acceptance acceptance;
  for (int i = 0; i < 50; ++i) acceptance.Add(2, 2);
  EXPECT_GT(acceptance.At(1, 0.5), 0.8);
  EXPECT_EQ(acceptance.At(2, 0.5), 0.5);
}

}  // namespace
}  // namespace skim
