#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <limits>
#include <memory>
#include <random>

#include "base/bf16.h"
#include "base/checked_math.h"
#include "base/clock.h"
#include "base/status_macros.h"

namespace skim {
namespace {

TEST(Bf16, EveryValueSurvivesARoundTrip) {
  for (uint32_t bits = 0; bits < 0x10000; ++bits) {
    const Bf16 x{static_cast<uint16_t>(bits)};
    if (std::isnan(ToFloat(x))) {
      EXPECT_TRUE(std::isnan(ToFloat(ToBf16(ToFloat(x)))));
    } else {
      EXPECT_EQ(ToBf16(ToFloat(x)).bits, bits);
    }
  }
}

TEST(Bf16, RoundsToTheNearestValueAndTiesToEven) {
  std::mt19937 rng(1);
  for (int i = 0; i < 100000; ++i) {
    const float x = std::bit_cast<float>(static_cast<uint32_t>(rng()));
    if (!std::isfinite(x) || std::abs(x) > 3e38f) continue;
    const uint16_t got = ToBf16(x).bits;
    const double error = std::abs(double{ToFloat({got})} - x);
    for (int step : {-1, 1}) {
      const auto neighbour = static_cast<uint16_t>(got + step);
      const double other = std::abs(double{ToFloat({neighbour})} - x);
      if (!std::isfinite(ToFloat({neighbour}))) continue;
      EXPECT_LE(error, other) << x;
      if (error == other && error > 0) {
        EXPECT_EQ(got % 2, 0) << x;
      }
    }
  }
  EXPECT_TRUE(std::isinf(ToFloat(ToBf16(std::numeric_limits<float>::max()))));
}

TEST(CheckedMath, OverflowIsAnAnswer) {
  EXPECT_EQ(CheckedMul<int64_t>(1 << 20, 1 << 20), int64_t{1} << 40);
  EXPECT_FALSE(CheckedMul<int64_t>(int64_t{1} << 40, int64_t{1} << 40));
  EXPECT_FALSE(CheckedAdd<int32_t>(std::numeric_limits<int32_t>::max(), 1));
  EXPECT_EQ(CheckedAdd<uint8_t>(200, 55), 255);
}

TEST(StatusMacros, ReturnTheFirstErrorAndMoveTheValue) {
  auto make = [](bool ok) -> absl::StatusOr<std::unique_ptr<int>> {
    if (!ok) return absl::NotFoundError("gone");
    return std::make_unique<int>(7);
  };
  auto use = [&](bool ok) -> absl::StatusOr<int> {
    SKIM_ASSIGN_OR_RETURN(std::unique_ptr<int> value, make(ok));
    SKIM_RETURN_IF_ERROR(absl::OkStatus());
    return *value;
  };
  EXPECT_EQ(*use(true), 7);
  EXPECT_TRUE(absl::IsNotFound(use(false).status()));
}

TEST(SteadyClock, NeverGoesBack) {
  const SteadyClock clock;
  const Micros first = clock.Now();
  EXPECT_GE(clock.Now(), first);
}

}  // namespace
}  // namespace skim
