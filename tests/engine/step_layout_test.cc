#include "engine/step_layout.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <array>
#include <climits>

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

const LayerSegments kSegments(6, kBoundary);  // units of 2 layers: 2 + 1

// Two hidden rows a page, of three granules each.
const LayoutContext kContext = {kSegments, kPage, {2, 3, 8}};

StepLayout Build(const StepPlan& plan, int32_t first_layer = 0, int32_t end_layer = 6,
                 const std::vector<Visibility>& visible = {}) {
  const absl::Status status = StepLayout::Check(plan, kContext);
  EXPECT_TRUE(status.ok()) << status;
  return StepLayout::Build(plan, kContext, first_layer, end_layer, visible);
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
  // Two blocks of the first, one of the second.
  EXPECT_THAT(Slice(layout, span.blocks, 3), ElementsAre(10, 12, 20));
  EXPECT_THAT(Slice(layout, span.blocks + span.blocks_per_unit, 3), ElementsAre(11, 13, 21));
  EXPECT_EQ(span.sequences[0].slots, 34);
  EXPECT_EQ(span.sequences[1].block_begin, 2);
  EXPECT_THAT(Slice(layout, layout.spans[1].blocks, 3), ElementsAre(10, 11, 20));
}

TEST(StepLayout, RowsThatLeaveEarlyAreGatheredOut) {
  Fixture f;
  f.plan.leave = {3, 3, 6, 6, 6};
  f.plan.enter[4] = 3;
  const std::vector<PageId> hidden_a(16, 7), hidden_b = {kNoPage, kNoPage, 9};
  f.plan.sequences[0].hidden_pages = hidden_a;
  f.plan.sequences[1].hidden_pages = hidden_b;
  const StepLayout layout = Build(f.plan);
  ASSERT_EQ(layout.spans.size(), 3u);  // [0,3) [3,4) [4,6)
  EXPECT_THAT(Slice(layout, layout.spans[0].gather, 4), ElementsAre(0, 1, 2, 3));
  EXPECT_THAT(Slice(layout, layout.spans[1].gather, 3), ElementsAre(2, 3, 4));
  EXPECT_THAT(Slice(layout, layout.leave.step_rows, 2), ElementsAre(0, 1));
  EXPECT_THAT(Slice(layout, layout.leave.hidden_rows, 2), ElementsAre(56, 59));
  EXPECT_THAT(Slice(layout, layout.enter.hidden_rows, 1), ElementsAre(75));
}

TEST(StepLayout, RowsOfADraftPassAreLeftOutOfTheLayersThatTheySkip) {
  Fixture f;
  f.plan.sequences[1].draft = true;
  const int16_t skipped[] = {0, 2, 3};
  f.plan.sequences[1].skipped = skipped;
  const StepLayout layout = Build(f.plan);
  std::vector<std::array<int32_t, 3>> spans;
  for (const LayerSpan& span : layout.spans) {
    spans.push_back({span.first_layer, span.end_layer, span.rows});
  }
  using Span = std::array<int32_t, 3>;
  EXPECT_THAT(spans, ElementsAre(Span{0, 1, 4}, Span{1, 2, 5}, Span{2, 3, 4}, Span{3, 4, 4},
                                 Span{4, 6, 5}));
  EXPECT_THAT(Slice(layout, layout.spans[0].gather, 4), ElementsAre(0, 1, 2, 3));
}

TEST(StepLayout, LayersCanOnlyBeSkippedByDraftsThatLeaveNothing) {
  const int16_t skipped[] = {1, 2}, twice[] = {2, 2}, above[] = {6};
  const auto error = [](auto change) {
    Fixture f;
    f.plan.sequences[1].draft = true;
    change(&f.plan.sequences[1]);
    return std::string(StepLayout::Check(f.plan, kContext).message());
  };
  EXPECT_THAT(error([&](auto* s) { s->skipped = skipped; }), "");
  EXPECT_THAT(error([&](auto* s) { s->skipped = twice; }), HasSubstr("ascend"));
  EXPECT_THAT(error([&](auto* s) { s->skipped = above; }), HasSubstr("ascend"));
  EXPECT_THAT(error([&](auto* s) {
                s->skipped = skipped;
                s->draft = false;
              }),
              HasSubstr("skipped"));
  const std::vector<PageId> hidden(3, 7);
  EXPECT_THAT(error([&](auto* s) {
                s->skipped = skipped;
                s->hidden_pages = hidden;
              }),
              HasSubstr("skipped"));
}

TEST(StepLayout, NeighboursOfOneWeightFormatAreOneRunOfRows) {
  Fixture f;
  EXPECT_THAT(Build(f.plan).spans[0].formats, ElementsAre(FormatRows{WeightFormat::kBf16, 0, 5}));
  f.plan.sequences[0].weight_format = WeightFormat::kInt8;
  EXPECT_THAT(Build(f.plan).spans[0].formats, ElementsAre(FormatRows{WeightFormat::kInt8, 0, 4},
                                                          FormatRows{WeightFormat::kBf16, 4, 1}));
  // Counted in the rows of a span, not of the step.
  f.plan.leave = {3, 3, 3, 6, 6};
  const std::vector<PageId> hidden(17, 7);
  f.plan.sequences[0].hidden_pages = hidden;
  EXPECT_THAT(Build(f.plan).spans[1].formats, ElementsAre(FormatRows{WeightFormat::kInt8, 0, 1},
                                                          FormatRows{WeightFormat::kBf16, 1, 1}));
}

// Rows that stop at a later boundary than the first sparse one have pages of their own, in the
// order in which the prompt's tokens came to that segment.
TEST(StepLayout, DeepHiddenRowsFollowTheOrderOfArrival) {
  const int32_t boundaries[] = {2, 4};
  const LayerSegments segments(6, boundaries);
  const LayoutContext context = {segments, kPage, {2, 3, 8}};
  const std::vector<PageId> pages(8, 1), hidden(16, 7), deep = {40, 41, 42};
  const std::vector<int32_t> held = {9, 4, 50};  // the last was generated
  const auto leaving = [&](StepPlan plan) {
    const absl::Status status = StepLayout::Check(plan, context);
    EXPECT_TRUE(status.ok()) << status;
    const StepLayout layout = StepLayout::Build(plan, context, 0, 6, {});
    return std::pair(Slice(layout, layout.enter.hidden_rows, layout.enter.rows),
                     Slice(layout, layout.leave.hidden_rows, layout.leave.rows));
  };
  PlanSequence sequence;
  sequence.id = 1;
  sequence.row_count = 2;
  sequence.prompt_tokens = 30;
  sequence.segment_pages = {pages, pages, pages};
  sequence.cut_segment = sequence.dense_segments = 1;
  sequence.slot_positions = {{}, held, {}};
  sequence.hidden_pages = hidden;
  sequence.deep_hidden_pages = deep;
  StepPlan plan = {.tokens = {1, 2},
                   .positions = {3, 20},
                   .enter = {2, 2},
                   .leave = {4, 4},
                   .sequences = {sequence}};
  // From the first boundary by position, to the second as the third and fourth of the prompt.
  EXPECT_EQ(leaving(plan), std::pair(std::vector<int32_t>{7 * 8 + 3, 7 * 8},
                                     std::vector<int32_t>{41 * 8, 41 * 8 + 3}));
  plan.positions = {4, 9};
  plan.enter = {4, 4};
  plan.leave = {6, 6};
  EXPECT_EQ(leaving(plan).first, (std::vector<int32_t>{40 * 8 + 3, 40 * 8}));
  plan.positions = {4, 20};  // 20 has never come so far
  EXPECT_THAT(std::string(StepLayout::Check(plan, context).message()), HasSubstr("no hidden row"));
  plan = {.tokens = {1, 2},
          .positions = {3, 20},
          .enter = {2, 2},
          .leave = {4, 4},
          .sequences = {sequence}};
  plan.sequences[0].deep_hidden_pages = std::span(deep).first(1);
  EXPECT_THAT(std::string(StepLayout::Check(plan, context).message()), HasSubstr("no hidden row"));
}

TEST(HiddenGeometry, ABlockTakesWholePages) {
  const auto rows = [](size_t page_bytes, int32_t hidden_size) {
    return HiddenGeometry::Of(page_bytes, 100, hidden_size, kPage).rows_per_page;
  };
  EXPECT_EQ(rows(10 * 64 * 4, 64), 8);  // ten would fit
  EXPECT_EQ(rows(16 * 64 * 4, 64), 16);
  EXPECT_EQ(rows(70 * 64 * 4, 64), 32);
  EXPECT_EQ(rows(1 * 64 * 4, 64), 1);
  EXPECT_EQ(rows(1 * 64 * 4, 65), 0);  // none fits
}

// Two drafts of the first sequence are verified: the rows of the tokens before them go on from
// layer 2, where their draft passes left, the newest comes from the embedding.
TEST(StepLayout, RowsToBeVerifiedJoinWhereTheirDraftsLeft) {
  Fixture f;
  const std::vector<TokenId> known(33, 1), drafts = {3, 4};
  std::vector<PageId> hidden(17, kNoPage);
  hidden[16] = 7;  // positions 32 and 33
  PlanSequence& a = f.plan.sequences[0];
  f.plan.tokens.erase(f.plan.tokens.begin());
  f.plan.positions = {32, 33, 34, 5};
  f.plan.enter = {2, 2, 0, 0};
  f.plan.leave.assign(4, 6);
  a.row_count = 3;
  a.tokens = known;
  a.drafts = drafts;
  a.hidden_pages = hidden;
  a.logits = LogitsWanted::kLast;
  a.draws = 3;
  f.plan.sequences[1].row_begin = 3;
  const StepLayout layout = Build(f.plan);
  ASSERT_EQ(layout.spans.size(), 3u);
  EXPECT_EQ(layout.spans[0].end_layer, 2);
  EXPECT_THAT(Slice(layout, layout.spans[0].positions, 2), ElementsAre(34, 5));
  EXPECT_EQ(layout.spans[0].sequences[0].slots, 35);
  EXPECT_THAT(Slice(layout, layout.spans[1].positions, 4), ElementsAre(32, 33, 34, 5));
  EXPECT_EQ(layout.enter.rows, 2);
  EXPECT_THAT(Slice(layout, layout.enter.hidden_rows, 2), ElementsAre(7 * 8, 7 * 8 + 3));

  a.draws = 4;
  EXPECT_FALSE(StepLayout::Check(f.plan, kContext).ok()) << "a draw without a row";
  a.draws = 3;
  a.drafts = std::span(drafts).first(1);
  EXPECT_FALSE(StepLayout::Check(f.plan, kContext).ok()) << "a draw behind no token";
}

// A draft may leave anywhere; its row is kept only where there is a page for it.
TEST(StepLayout, ADraftLeavesWithOrWithoutItsHiddenRow) {
  Fixture f;
  const std::vector<TokenId> known(33, 1);
  f.plan.tokens = {1};
  f.plan.positions = {32};
  f.plan.enter = {0};
  f.plan.leave = {2};
  f.plan.sequences.resize(1);
  PlanSequence& a = f.plan.sequences[0];
  a.row_count = 1;
  a.tokens = known;
  a.logits = LogitsWanted::kLast;
  a.draws = 1;
  EXPECT_FALSE(StepLayout::Check(f.plan, kContext).ok()) << "a draw from below the last layer";
  a.draft = true;
  EXPECT_EQ(Build(f.plan).leave.rows, 0);
  std::vector<PageId> hidden(17, 7);
  a.hidden_pages = hidden;
  EXPECT_EQ(Build(f.plan).leave.rows, 1);
}

// The first sequence holds three tokens above the boundary, out of order, and has a cut there.
struct PrunedFixture : Fixture {
  std::vector<int32_t> held = {0, 9, 4};
  std::vector<PageId> hidden = std::vector<PageId>(17, 7);
  PruneRules rules;

  PrunedFixture() {
    PlanSequence& a = plan.sequences[0];
    a.cut_segment = a.dense_segments = 1;
    a.slot_positions = {{}, held};
    a.hidden_pages = hidden;
    a.rules = &rules;
  }
  // A decode row at 33 that may revive two tokens.
  void Decode() {
    PlanSequence& a = plan.sequences[0];
    a.cuts = {{.layer = 4, .choose = 5, .score_rows = 1, .revive = 2}};
    plan.positions = {kReservedPosition, kReservedPosition, 32, 33, 5};
    plan.enter = {4, 4, 0, 0, 0};
    plan.leave = {4, 4, 6, 6, 6};
  }
};

TEST(StepLayout, RowsOfAPrunedSegmentTakeTheSlotsBehindThoseInUse) {
  PrunedFixture f;
  const StepLayout layout = Build(f.plan);
  const LayerSpan& dense = layout.spans[0];
  EXPECT_EQ(dense.sequences[0].positions_begin, SequenceRows::kInOrder);
  const LayerSpan& span = layout.spans[1];
  EXPECT_EQ(span.sequences[0].slots, 7);
  EXPECT_EQ(span.sequences[0].positions_begin, 0);
  EXPECT_EQ(span.sequences[1].positions_begin, SequenceRows::kInOrder);
  EXPECT_THAT(Slice(layout, span.slots, 5), ElementsAre(3, 4, 5, 6, 5));
  EXPECT_THAT(Slice(layout, span.slot_positions, 7), ElementsAre(0, 9, 4, 30, 31, 32, 33));
  EXPECT_THAT(Slice(layout, span.blocks, 2), ElementsAre(10, 20));  // one block each
}

// A decode row of each of two sequences, of which the first is pruned, `age` tokens later.
StepLayout Decoding(int32_t age) {
  const std::vector<PageId> pages(64, 3), hidden(64, 7);
  std::vector<int32_t> held;
  for (int32_t i = 0; i < 20 + age; ++i) held.push_back(2 * i);
  const PruneRules rules;
  StepPlan plan;
  plan.tokens = {1, 2};
  plan.positions = {100 + age, 5 + age};
  plan.enter.assign(2, 0);
  plan.leave.assign(2, 6);
  plan.sequences.resize(2);
  for (int32_t i : {0, 1}) {
    PlanSequence& sequence = plan.sequences[i];
    sequence.id = i + 1;
    sequence.row_begin = i;
    sequence.row_count = 1;
    sequence.segment_pages = {pages, pages};
  }
  PlanSequence& pruned = plan.sequences[0];
  pruned.cut_segment = pruned.dense_segments = 1;
  pruned.slot_positions = {{}, held};
  pruned.hidden_pages = hidden;
  pruned.rules = &rules;
  return Build(plan);
}

TEST(StepLayout, ArraysStayWhereTheyAreWhileSequencesGrow) {
  int moves = 0;
  StepLayout before = Decoding(0);
  for (int32_t age = 1; age <= 200; ++age) {
    const StepLayout layout = Decoding(age);
    ASSERT_EQ(layout.spans.size(), 2u);
    bool same = layout.index.size() == before.index.size();
    for (size_t s : {0, 1}) {
      const LayerSpan &now = layout.spans[s], &then = before.spans[s];
      same &= now.positions == then.positions && now.slots == then.slots;
      same &= now.blocks == then.blocks && now.blocks_per_unit == then.blocks_per_unit;
      same &= now.slot_positions == then.slot_positions;
    }
    moves += !same;
    before = layout;
  }
  EXPECT_LE(moves, 4);  // and not at every token, nor at every page
  EXPECT_LE(before.index.size(), 1000u);
}

TEST(StepLayout, ReservedRowsRunOnceATokenIsRevived) {
  PrunedFixture f;
  f.Decode();
  EXPECT_EQ(Build(f.plan, 0, 4).spans[0].rows, 3);
  f.plan.positions[1] = 11;
  f.plan.leave[1] = 6;
  const StepLayout layout = StepLayout::Build(f.plan, kContext, 4, 6, std::vector<Visibility>(2));
  ASSERT_EQ(layout.spans.size(), 1u);
  EXPECT_THAT(Slice(layout, layout.spans[0].positions, 4), ElementsAre(11, 32, 33, 5));
  EXPECT_THAT(Slice(layout, layout.spans[0].slots, 4), ElementsAre(3, 4, 5, 5));
  EXPECT_EQ(layout.enter.rows, 1);
}

TEST(StepLayout, SlotsThatAreNotVisibleHoldNoPosition) {
  PrunedFixture f;
  std::vector<Visibility> visible(2);
  visible[0].assign(34, 1);
  visible[0][9] = 0;
  const StepLayout layout = Build(f.plan, 4, 6, visible);
  EXPECT_THAT(Slice(layout, layout.spans[0].slot_positions, 4), ElementsAre(0, INT32_MAX, 4, 30));
}

TEST(StepLayout, RefusesCutsThatCannotBeMade) {
  using Damage = void (*)(PrunedFixture&);
  const std::pair<const char*, Damage> cases[] = {
      {"without rules", [](PrunedFixture& f) { f.plan.sequences[0].rules = nullptr; }},
      {"no boundary", [](PrunedFixture& f) { f.plan.sequences[0].cuts[0].layer = 3; }},
      {"chooses nobody", [](PrunedFixture& f) { f.plan.sequences[0].cuts[0].choose = 0; }},
      {"into a dense segment", [](PrunedFixture& f) { f.plan.sequences[0].dense_segments = 2; }},
      {"a segment with gaps", [](PrunedFixture& f) { f.plan.sequences[0].cuts[0].late = true; }},
      {"reserved row is taken", [](PrunedFixture& f) { f.plan.positions[0] = 3; }},
      {"has no position", [](PrunedFixture& f) { f.plan.positions[2] = kReservedPosition; }},
      {"another number of segments",
       [](PrunedFixture& f) { f.plan.sequences[0].slot_positions.pop_back(); }},
      {"no row but reserved", [](PrunedFixture& f) { f.plan.sequences[0].cuts[0].revive = 4; }},
      {"too few KV pages", [](PrunedFixture& f) { f.plan.sequences[0].segment_pages[1] = {}; }},
  };
  for (const auto& [message, damage] : cases) {
    PrunedFixture f;
    f.Decode();
    ASSERT_TRUE(StepLayout::Check(f.plan, kContext).ok());
    damage(f);
    EXPECT_THAT(std::string(StepLayout::Check(f.plan, kContext).message()), HasSubstr(message));
  }
}

// The first sequence's tokens 30 to 33 go on at the boundary; of those before, some do not.
struct PhantomFixture : PrunedFixture {
  PhantomFixture() {
    PlanSequence& a = plan.sequences[0];
    a.dense_segments = PlanSequence::kAllDense;
    a.prompt_tokens = 34;
    plan.enter = {4, 4, 4, 4, 0};
    a.phantoms = {{.cut_layer = 4, .first_layer = 4, .end_layer = 6, .positions = {10, 12, 29}}};
  }
  void AddPhantomsOfTheSecond() {
    PlanSequence& b = plan.sequences[1];
    b.cut_segment = 1;
    b.slot_positions = {{}, {}};
    b.hidden_pages = hidden_b;
    b.prompt_tokens = 6;
    b.phantoms = {{.cut_layer = 4, .first_layer = 4, .end_layer = 6, .positions = {1, 2}}};
    plan.enter[4] = 4;
  }
  const std::vector<PageId> hidden_b = std::vector<PageId>(3, 8);
};

TEST(StepLayout, PhantomsTakeTheSlotsOfTheirPositionsFromTheirHiddenRows) {
  PhantomFixture f;
  const StepLayout layout = Build(f.plan);
  ASSERT_EQ(layout.phantoms.size(), 1u);
  const PhantomSpan& span = layout.phantoms[0];
  EXPECT_EQ(span.cut_layer, 4);
  EXPECT_EQ(span.first_layer, 4);
  EXPECT_EQ(span.end_layer, 6);
  EXPECT_THAT(Slice(layout, span.positions, 3), ElementsAre(10, 12, 29));
  EXPECT_THAT(Slice(layout, span.hidden_rows, 3), ElementsAre(56, 56, 59));  // two rows a page
  EXPECT_THAT(Slice(layout, span.blocks, 2), ElementsAre(10, 11));
  // As many as the rows see, so that nobody takes the last phantom for the end.
  EXPECT_EQ(span.sequences[0].slots, 34);
  // The rows see them all.
  EXPECT_EQ(layout.spans[1].sequences[0].slots, 34);
  EXPECT_EQ(layout.spans[1].sequences[0].positions_begin, SequenceRows::kInOrder);
  // They are written once in a step, before its first part.
  EXPECT_TRUE(StepLayout::Build(f.plan, kContext, 4, 6, {}).phantoms.empty());
}

TEST(StepLayout, PhantomsOfSeveralSequencesShareProductsAsFarAsRowsGo) {
  PhantomFixture f;
  f.AddPhantomsOfTheSecond();
  const StepLayout layout = Build(f.plan);
  ASSERT_EQ(layout.phantoms.size(), 1u);
  EXPECT_EQ(layout.phantoms[0].rows, 5);
  EXPECT_EQ(layout.phantoms[0].sequences[1].row_begin, 3);
  EXPECT_EQ(layout.phantoms[0].sequences[1].block_begin, 2);
  LayoutContext narrow = kContext;
  narrow.max_rows = 2;
  const StepLayout cut = StepLayout::Build(f.plan, narrow, 0, 6, {});
  ASSERT_EQ(cut.phantoms.size(), 3u);
  EXPECT_THAT(Slice(cut, cut.phantoms[1].positions, 2), ElementsAre(29, 1));
  EXPECT_THAT(Slice(cut, cut.phantoms[1].blocks, 3), ElementsAre(10, 11, 20));
  EXPECT_THAT(Slice(cut, cut.phantoms[2].positions, 1), ElementsAre(2));
}

TEST(StepLayout, RefusesPhantomsThatCannotBe) {
  using Damage = void (*)(PlanSequence&, PlanPhantoms&);
  const std::pair<const char*, Damage> cases[] = {
      {"other layers", [](PlanSequence&, PlanPhantoms& p) { p.cut_layer = 3; }},
      {"other layers", [](PlanSequence&, PlanPhantoms& p) { p.end_layer = 5; }},
      {"other layers", [](PlanSequence&, PlanPhantoms& p) { p.first_layer = 6; }},
      {"not its positions", [](PlanSequence& s, PlanPhantoms&) { s.dense_segments = 1; }},
      {"do not ascend", [](PlanSequence&, PlanPhantoms& p) { p.positions = {12, 10}; }},
      {"do not ascend", [](PlanSequence&, PlanPhantoms& p) { p.positions = {-1}; }},
      {"do not ascend", [](PlanSequence&, PlanPhantoms& p) { p.positions = {40}; }},
      {"one position", [](PlanSequence&, PlanPhantoms& p) { p.positions = {31}; }},
      {"no hidden row", [](PlanSequence& s, PlanPhantoms&) { s.hidden_pages = {}; }},
  };
  for (const auto& [message, damage] : cases) {
    PhantomFixture f;
    f.plan.enter = {0, 0, 0, 0, 0};  // so that nothing else wants hidden rows
    ASSERT_TRUE(StepLayout::Check(f.plan, kContext).ok());
    damage(f.plan.sequences[0], f.plan.sequences[0].phantoms[0]);
    EXPECT_THAT(std::string(StepLayout::Check(f.plan, kContext).message()), HasSubstr(message));
  }
}

// They run ahead to the middle of a segment, and so far K/V is predicted; no hidden row is kept.
struct ScoutFixture : PhantomFixture {
  ScoutFixture() {
    PlanSequence& a = plan.sequences[0];
    plan.leave = {5, 5, 5, 5, 6};
    a.rules = &rules;
    a.cuts = {{.layer = 4, .scout_end = 5, .choose = 9, .score_rows = 2}};
    a.phantoms[0].end_layer = 5;
  }
  const PruneRules rules;
};

TEST(StepLayout, ScoutsLeaveNoHiddenRow) {
  ScoutFixture f;
  const StepLayout layout = Build(f.plan);
  EXPECT_EQ(layout.enter.rows, 4);
  EXPECT_EQ(layout.leave.rows, 0);
  ASSERT_EQ(layout.phantoms.size(), 1u);
  EXPECT_EQ(layout.phantoms[0].first_layer, 4);
  EXPECT_EQ(layout.phantoms[0].end_layer, 5);
  ASSERT_EQ(layout.spans.size(), 3u);
  EXPECT_EQ(layout.spans[1].end_layer, 5);
  EXPECT_EQ(layout.spans[1].rows, 5);
  EXPECT_EQ(layout.spans[2].rows, 1);
}

TEST(StepLayout, PhantomsOfScoutsAndOfOthersShareTheLayersThatBothNeed) {
  ScoutFixture f;
  f.AddPhantomsOfTheSecond();
  const StepLayout layout = Build(f.plan);
  ASSERT_EQ(layout.phantoms.size(), 2u);
  EXPECT_EQ(layout.phantoms[0].end_layer, 5);
  EXPECT_EQ(layout.phantoms[0].rows, 5);
  EXPECT_EQ(layout.phantoms[1].first_layer, 5);
  EXPECT_EQ(layout.phantoms[1].rows, 2);
}

TEST(StepLayout, RefusesScoutsThatCannotBe) {
  using Damage = void (*)(StepPlan&, PlanSequence&);
  const std::pair<const char*, Damage> cases[] = {
      {"without layers", [](StepPlan&, PlanSequence& s) { s.cuts[0].scout_end = 4; }},
      {"without layers", [](StepPlan&, PlanSequence& s) { s.cuts[0].scout_end = 7; }},
      {"revived", [](StepPlan&, PlanSequence& s) { s.cuts[0].revive = 1; }},
      {"revived late", [](StepPlan&, PlanSequence& s) { s.cuts[0].late = true; }},
      {"other layers", [](StepPlan& p, PlanSequence&) { p.leave[2] = 6; }},
      {"other layers", [](StepPlan& p, PlanSequence&) { p.enter[2] = 0; }},
      {"other layers", [](StepPlan&, PlanSequence& s) { s.phantoms[0].end_layer = 6; }},
      {"drawn from",
       [](StepPlan&, PlanSequence& s) {
         static const std::vector<TokenId> kTokens(34, 1);
         s.tokens = kTokens;
         s.draws = 1;
         s.logits = LogitsWanted::kLast;
       }},
  };
  for (const auto& [message, damage] : cases) {
    ScoutFixture f;
    ASSERT_TRUE(StepLayout::Check(f.plan, kContext).ok());
    damage(f.plan, f.plan.sequences[0]);
    EXPECT_THAT(std::string(StepLayout::Check(f.plan, kContext).message()), HasSubstr(message));
  }
}

TEST(PruneRules, CountsForcedPositionsOnce) {
  PruneRules rules;
  rules.sinks = 4;
  rules.window = 3;
  EXPECT_EQ(rules.Forced(100), 7);
  EXPECT_EQ(rules.Forced(5), 5);
  rules.pinned = {{2, 8}, {6, 10}, {96, 100}};
  EXPECT_EQ(rules.Forced(100), 10 + 4);
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
      {"no hidden row", [](StepPlan& p) { p.leave[0] = 3; }},
      {"too few KV pages", [](StepPlan& p) { p.positions[3] = 64; }},
      {"number of segments", [](StepPlan& p) { p.sequences[0].segment_pages.pop_back(); }},
  };
  for (const auto& [message, damage] : cases) {
    Fixture f;
    damage(f.plan);
    const absl::Status status = StepLayout::Check(f.plan, kContext);
    EXPECT_EQ(status.code(), absl::StatusCode::kInternal) << message;
    EXPECT_THAT(std::string(status.message()), HasSubstr(message));
  }
}

}  // namespace
}  // namespace skim
