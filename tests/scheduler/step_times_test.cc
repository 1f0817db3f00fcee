#include "scheduler/step_times.h"

#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <random>

namespace skim {
namespace {

using enum WeightFormat;

TEST(StepTimes, WeightsAreTakenToStreamOnceWhereNothingIsKnown) {
  const StepTimes times;
  EXPECT_EQ(times.Of(kBf16, 0), 0);
  EXPECT_LT(times.Of(kBf16, 16), 1.5 * times.Of(kBf16, 1));
  EXPECT_LT(times.Of(kInt4, 1), times.Of(kInt8, 1));
  EXPECT_LT(times.Of(kInt8, 1), times.Of(kBf16, 1));
  EXPECT_EQ(times.unit(), 0);
}

TEST(StepTimes, LearnsEveryNumberOfRowsAndWhatLiesBetween) {
  StepTimes times;
  for (const int rows : {1, 5, 40, 200}) {
    for (int i = 0; i < 20; ++i) times.Add(kBf16, rows, 10'000 + 500 * rows);
  }
  for (const int rows : {1, 3, 5, 20, 40, 100, 200}) {
    EXPECT_NEAR(times.Of(kBf16, rows) * times.unit(), 10'000 + 500 * rows, 300) << rows;
  }
  EXPECT_GT(times.Of(kBf16, 400), times.Of(kBf16, 200));
}

TEST(StepTimes, OfSeveralFormatsAreOneAfterTheOther) {
  StepTimes times;
  for (int i = 0; i < 20; ++i) {
    times.Add(kBf16, 1, 1000);
    times.Add(kInt8, 1, 400);
  }
  EXPECT_NEAR(times.Of(RowsByFormat{1, 0, 1, 0}), 1.4 * times.Of(kBf16, 1), 0.01);
}

TEST(StepTimes, AFormatThatNeverRanIsJudgedByAnother) {
  StepTimes times;
  times.Add(kBf16, 1, 50'000);
  EXPECT_LT(times.Of(kInt8, 1), times.Of(kBf16, 1));
  EXPECT_GT(times.Of(kInt8, 1), 0.2 * times.Of(kBf16, 1));
}

TEST(StepTimes, OfTheDraftHeadAreLearnedApart) {
  StepTimes times;
  times.Add(kBf16, 1, 50'000);
  const double expected = times.Of(kHeadPass, 1);
  EXPECT_GT(expected, 0);
  EXPECT_LT(expected, 0.2 * times.Of(kBf16, 1));
  for (int i = 0; i < 20; ++i) times.Add(kHeadPass, 4, 20'000);
  EXPECT_NEAR(times.Of(kHeadPass, 4) / times.Of(kBf16, 1), 0.4, 0.05);
}

// A context that grows, or a clock that throttles.
TEST(StepTimes, WhatSlowsAllStepsDownChangesNoRatio) {
  StepTimes times;
  double slow = 1;
  for (int i = 0; i < 400; ++i) {
    if (i > 100) slow = std::min(3.0, slow * 1.02);
    times.Add(kBf16, 5, static_cast<Micros>(12'000 * slow));
    times.Add(kInt8, 1, static_cast<Micros>(4'000 * slow));
    if (i < 100) times.Add(kBf16, 1, 10'000);  // never again afterwards
  }
  EXPECT_NEAR(times.Of(kInt8, 1) / times.Of(kBf16, 5), 1.0 / 3, 0.01);
  EXPECT_NEAR(times.Of(kBf16, 1) * times.unit(), 30'000, 3'000);
}

// A machine that others use, too; plain steps and drafts seldom run in turns.
TEST(StepTimes, StepsThatVaryMuchDoNotMislead) {
  for (int seed = 0; seed < 50; ++seed) {
    StepTimes times;
    std::mt19937 random(seed);
    std::normal_distribution<double> noise(0, 0.35);
    const auto add = [&](WeightFormat format, int32_t rows, double micros) {
      times.Add(format, rows, static_cast<Micros>(micros * std::exp(noise(random))));
    };
    for (int turn = 0; turn < 4; ++turn) {
      for (int i = 0; i < 60; ++i) add(kBf16, 4, 15'000);
      for (int i = 0; i < 15; ++i) {
        for (int pass = 0; pass < 4; ++pass) add(kInt4, 4, 7'500);
        add(kBf16, 20, 24'000);
      }
    }
    EXPECT_NEAR(times.Of(kBf16, 20) / times.Of(kBf16, 4), 1.6, 0.4) << seed;
    EXPECT_NEAR(times.Of(kInt4, 4) / times.Of(kBf16, 4), 0.5, 0.13) << seed;
  }
}

TEST(StepTimes, OneStepThatWasHeldUpChangesLittle) {
  StepTimes times;
  for (int i = 0; i < 50; ++i) {
    times.Add(kBf16, 1, 10'000);
    times.Add(kBf16, 4, 11'000);
  }
  times.Add(kBf16, 4, 60'000'000);
  EXPECT_LT(times.Of(kBf16, 4), 1.3 * times.Of(kBf16, 1));
}

TEST(StepTimes, AClockThatStandsStillTeachesNothing) {
  StepTimes times;
  times.Add(kBf16, 1, 0);
  times.Add(kBf16, 0, 5);
  EXPECT_EQ(times.unit(), 0);
}

}  // namespace
}  // namespace skim
