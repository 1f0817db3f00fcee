#include "engine/step_layout.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace skim {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr int32_t kPage = 32;

// Two sequences: rows at positions 30..33 of the first, 5 of the second.
struct Fixture {
  std::vector<PageId> pages_a = {10, 11, 12, 13}, pages_b = {20, 21};
  StepPlan plan;

  Fixture() {
    plan.tokens = {1, 2, 3, 4, 5};
    plan.positions = {30, 31, 32, 33, 5};
    plan.enter.assign(5, 0);
    plan.leave.assign(5, 6);
    PlanSequence a, b;
    a.id = 1;
    a.row_count = 4;
    a.segment_pages = {pages_a, pages_a};
    b.id = 2;
    b.row_begin = 4;
    b.row_count = 1;
    b.segment_pages = {pages_b, pages_b};
    plan.sequences = {a, b};
  }
};

const int32_t kBoundary[] = {4};

StepLayout Build(const StepPlan& plan) {
  StepLayout layout;
  const LayerSegments segments(6, kBoundary);  // units of 2 layers: 2 + 1
  EXPECT_TRUE(StepLayout::Build(plan, segments, kPage, &layout).ok());
  return layout;
}

std::vector<int32_t> Slice(const StepLayout& layout, size_t begin, int64_t count) {
  return {layout.index.begin() + static_cast<std::ptrdiff_t>(begin),
          layout.index.begin() + static_cast<std::ptrdiff_t>(begin) + count};
}

TEST(StepLayout, FullRowsMakeOneSpanPerSegmentWithoutGather) {
  Fixture f;
  const StepLayout layout = Build(f.plan);
  ASSERT_EQ(layout.spans.size(), 2u);
  EXPECT_TRUE(layout.spans[0].every_row);
  EXPECT_EQ(layout.spans[0].end_layer, 4);
  EXPECT_EQ(layout.spans[1].first_layer, 4);
  EXPECT_EQ(layout.enter.rows + layout.leave.rows, 0);
}

TEST(StepLayout, BlocksAreListedUnitByUnit) {
  Fixture f;
  const StepLayout layout = Build(f.plan);
  const LayerSpan& span = layout.spans[0];
  EXPECT_EQ(span.blocks_per_unit, 3);  // two blocks of the first, one of the second
  EXPECT_THAT(Slice(layout, span.blocks, 6), ElementsAre(10, 12, 20, 11, 13, 21));
  EXPECT_EQ(span.sequences[0].slots, 34);
  EXPECT_EQ(span.sequences[1].block_begin, 2);
  EXPECT_THAT(Slice(layout, layout.spans[1].blocks, 3), ElementsAre(10, 11, 20));
}

TEST(StepLayout, RowsThatLeaveEarlyAreGatheredOut) {
  Fixture f;
  f.plan.leave = {3, 3, 6, 6, 6};
  f.plan.enter[4] = 3;
  f.plan.hidden_slots = {7, 8, 0, 0, 9};
  const StepLayout layout = Build(f.plan);
  ASSERT_EQ(layout.spans.size(), 3u);  // [0,3) [3,4) [4,6)
  EXPECT_THAT(Slice(layout, layout.spans[0].gather, 4), ElementsAre(0, 1, 2, 3));
  EXPECT_THAT(Slice(layout, layout.spans[1].gather, 3), ElementsAre(2, 3, 4));
  EXPECT_THAT(Slice(layout, layout.leave.step_rows, 2), ElementsAre(0, 1));
  EXPECT_THAT(Slice(layout, layout.leave.hidden_slots, 2), ElementsAre(7, 8));
  EXPECT_THAT(Slice(layout, layout.enter.hidden_slots, 1), ElementsAre(9));
}

TEST(StepLayout, NeighboursOfOneWeightFormatAreOneRunOfRows) {
  Fixture f;
  EXPECT_THAT(Build(f.plan).spans[0].formats, ElementsAre(FormatRows{WeightFormat::kBf16, 0, 5}));
  f.plan.sequences[0].weight_format = WeightFormat::kInt8;
  EXPECT_THAT(Build(f.plan).spans[0].formats, ElementsAre(FormatRows{WeightFormat::kInt8, 0, 4},
                                                          FormatRows{WeightFormat::kBf16, 4, 1}));
  // Counted in the rows of a span, not of the step.
  f.plan.leave = {3, 3, 3, 6, 6};
  f.plan.hidden_slots.assign(5, 0);
  EXPECT_THAT(Build(f.plan).spans[1].formats, ElementsAre(FormatRows{WeightFormat::kInt8, 0, 1},
                                                          FormatRows{WeightFormat::kBf16, 1, 1}));
}

TEST(StepLayout, RefusesPlansThatContradictThemselves) {
  using Damage = void (*)(StepPlan&);
  const std::pair<const char*, Damage> cases[] = {
      {"different length", [](StepPlan& p) { p.positions.pop_back(); }},
      {"not consecutive", [](StepPlan& p) { p.sequences[1].row_begin = 3; }},
      {"not consecutive", [](StepPlan& p) { p.sequences[1].row_count = 2; }},
      {"not consecutive", [](StepPlan& p) { p.sequences[1].row_count = 0; }},
      {"without a sequence", [](StepPlan& p) { p.sequences.pop_back(); }},
      {"do not ascend", [](StepPlan& p) { p.positions[1] = 30; }},
      {"no interval", [](StepPlan& p) { p.leave[0] = 0; }},
      {"no interval", [](StepPlan& p) { p.leave[0] = 7; }},
      {"no interval", [](StepPlan& p) { p.enter[0] = -1; }},
      {"no hidden slot", [](StepPlan& p) { p.leave[0] = 3; }},
      {"too few KV pages", [](StepPlan& p) { p.positions[3] = 64; }},
      {"number of segments", [](StepPlan& p) { p.sequences[0].segment_pages.pop_back(); }},
  };
  for (const auto& [message, damage] : cases) {
    Fixture f;
    damage(f.plan);
    StepLayout layout;
    const absl::Status status =
        StepLayout::Build(f.plan, LayerSegments(6, kBoundary), kPage, &layout);
    EXPECT_EQ(status.code(), absl::StatusCode::kInternal) << message;
    EXPECT_THAT(std::string(status.message()), HasSubstr(message));
  }
}

}  // namespace
}  // namespace skim
