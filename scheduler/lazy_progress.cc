#include "scheduler/lazy_progress.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <ranges>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/status_macros.h"

namespace skim {
namespace {

absl::Status WrongChoice(const char* what) {
  return absl::InternalError(absl::StrCat("the engine's choice of tokens is wrong: ", what));
}

// A share of n in whole tokens. Shares come as float: .3f of 1000 is 300, not 301.
int32_t ShareOf(float share, int32_t n) {
  return static_cast<int32_t>(std::ceil(static_cast<double>(share) * n - 1e-3));
}

bool Ascends(const std::vector<int32_t>& values) {
  return std::ranges::adjacent_find(values, std::greater_equal<>()) == values.end();
}

}  // namespace

LazyProgress::LazyProgress(const KvGeometry& geometry, const PrefillPolicy& policy,
                           int32_t prompt_tokens)
    : geometry_(geometry), policy_(policy), prompt_tokens_(prompt_tokens) {
  SKIM_CHECK(policy.keep.size() == geometry.boundaries.size());
  SKIM_CHECK(geometry.hidden_rows_per_page > 0 &&
             geometry.page_tokens % geometry.hidden_rows_per_page == 0);
  Stage stage = {0, geometry.layers, 0, static_cast<int32_t>(geometry.segment_units.size()),
                 1, prompt_tokens};
  for (size_t b = 0; b < policy.keep.size(); ++b) {
    if (policy.keep[b] >= stage.keep) continue;  // as many go on: no cut
    const auto segment = static_cast<int32_t>(b) + 1;
    Stage below = stage;
    below.end_layer = geometry.boundaries[b];
    below.end_segment = segment;
    stages_.push_back(below);
    stage.first_layer = geometry.boundaries[b];
    stage.first_segment = segment;
    stage.keep = policy.keep[b];
    const int32_t share = std::max(
        {policy.min_keep, ShareOf(stage.keep, prompt_tokens), policy.rules.Forced(prompt_tokens)});
    stage.run_tokens = std::min(below.run_tokens, share);
    stage.scouts = geometry.scouts.empty() ? ScoutGeometry() : geometry.scouts[b];
    stage.scout_end_segment =
        1 + static_cast<int32_t>(std::ranges::count_if(geometry.boundaries, [&](int16_t boundary) {
          return boundary < stage.scouts.end_layer;
        }));
    if (stage.scouts.any() && !late()) choosing_from_ = static_cast<int32_t>(stages_.size()) + 1;
  }
  stages_.push_back(stage);
  SKIM_CHECK(stages() > 1);
  kept_.resize(stages_.size());
  slots_before_.assign(stages_.size(), 0);
  Restart();
}

void LazyProgress::Restart() {
  for (int32_t s = 1; s < static_cast<int32_t>(slots_.size()); ++s) {
    slots_before_[s] = std::max(slots_before_[s], static_cast<int32_t>(slots_[s].size()));
  }
  deep_rows_before_ = std::max(deep_rows_before_, deep_rows_);
  stage_ = done_ = in_order_ = revived_ = cached_ = deep_rows_ = 0;
  looks_left_ = policy_.looks_back() ? kLooks : 0;
  slots_.assign(stages_.size(), {});
  coming_.clear();
  depth_.assign(static_cast<size_t>(prompt_tokens_), 0);
  at_depth_.assign(stages_.size() + 1, 0);
  at_depth_[0] = prompt_tokens_;
  hidden_kept_ = true;
  useless_ = {};
  const int32_t block = geometry_.page_tokens;
  hidden_live_.assign(static_cast<size_t>((prompt_tokens_ + block - 1) / block), block);
  if (prompt_tokens_ % block != 0) hidden_live_.back() = prompt_tokens_ % block;
  deep_index_.assign(static_cast<size_t>(prompt_tokens_), 0);
  deep_live_.clear();
}

void LazyProgress::TakeCached(int32_t tokens) {
  SKIM_CHECK(stage_ == 0 && done_ == 0 && tokens + least_computed() <= prompt_tokens_);
  cached_ = done_ = in_order_ = tokens;
  for (int32_t position = 0; position < tokens; ++position) Deepen(position);
}

// --- prefill ---

int32_t LazyProgress::RowsOfTile(int32_t most, int32_t cached) const {
  const int32_t left = stages_[stage_].run_tokens - std::max(done_, cached);
  if (left <= most) return left;
  if (stage_ + 1 == stages()) return most;
  // The rows that score must run together.
  return std::max(0, std::min(most, left - policy_.rules.window));
}

int32_t LazyProgress::TileRows(int32_t most, int64_t budget, int32_t cached) const {
  if (scouting() || looking_back()) {
    const int32_t rows = looking_back() ? 1 : ScoutRows();
    return rows <= most && budget > 0 ? rows : 0;
  }
  const Stage& stage = stages_[stage_];
  most =
      static_cast<int32_t>(std::min<int64_t>(most, budget / (stage.end_layer - stage.first_layer)));
  if (TileCost(RowsOfTile(most, cached)) <= budget) return RowsOfTile(most, cached);
  // Phantoms come on top. Any number of them may stand between two tokens that are kept, so the
  // smallest tile may cost more.
  const auto sizes = std::views::iota(0, most);
  const auto too_many = std::ranges::partition_point(sizes, [&](int32_t size) {
    const int32_t rows = RowsOfTile(size, cached);
    return rows == 0 || TileCost(rows) <= budget;
  });
  const int32_t end = static_cast<int32_t>(too_many - sizes.begin());
  const int32_t rows = RowsOfTile(end - 1, cached);
  return rows > 0 ? rows : RowsOfTile(end, cached);
}

int32_t LazyProgress::Reach(int32_t tokens) const {
  if (tokens == 0) return 0;
  return stage_ == 0 ? tokens : kept_[stage_][tokens - 1] + 1;
}

int64_t LazyProgress::TileCost(int32_t rows) const {
  if (looking_back()) return int64_t{rows} * geometry_.layers;
  const Stage& stage = stages_[stage_];
  int64_t cut = 0;
  int32_t end_layer = stage.end_layer;
  if (scouting()) {
    cut = prompt_tokens_ - rows;
    end_layer = stage.scouts.end_layer;
  } else if (phantoms() && stage_ > 0) {
    cut = Reach(done_ + rows) - Reach(done_) - rows;
  }
  const int64_t worth = (cut + geometry_.phantoms_per_row - 1) / geometry_.phantoms_per_row;
  return (rows + worth) * (end_layer - stage.first_layer);
}

int32_t LazyProgress::ScoutSinks() const {
  const int32_t tokens = stages_[stage_ - 1].run_tokens;
  return std::min(policy_.rules.sinks, tokens - std::min(tokens, stages_[stage_].scouts.window));
}

int32_t LazyProgress::ScoutRows() const {
  return ScoutSinks() + std::min(stages_[stage_ - 1].run_tokens, stages_[stage_].scouts.window);
}

void LazyProgress::AddScouts(int32_t stage, KvExtent* extent) const {
  for (int32_t s = stages_[stage].first_segment; s < stages_[stage].scout_end_segment; ++s) {
    extent->slots[s] = std::max(extent->slots[s], prompt_tokens_);
  }
}

KvExtent LazyProgress::Extent(const std::vector<int32_t>& stage_slots, int32_t hidden_rows,
                              int32_t deep_rows) const {
  KvExtent extent;
  for (int32_t s = 0; s < stages(); ++s) {
    extent.slots.resize(static_cast<size_t>(stages_[s].end_segment), stage_slots[s]);
  }
  const int32_t rows = geometry_.hidden_rows_per_page;
  extent.hidden_pages = (hidden_rows + rows - 1) / rows;
  if (HasDeepRows()) extent.deep_hidden_pages = (deep_rows + rows - 1) / rows;
  return extent;
}

KvExtent LazyProgress::AfterTile(int32_t rows, int32_t cached) const {
  if (looking_back()) return AfterDecode(prompt_tokens_ - 1, 1);
  std::vector<int32_t> slots(stages_.size(), 0);
  for (int32_t s = 0; s < stage_; ++s) slots[s] = stages_[s].run_tokens;
  if (!scouting()) slots[stage_] = std::max(done_, cached) + rows;
  const int32_t deep_rows = slots[1];
  for (int32_t s = 1; s <= stage_ && phantoms(); ++s) {
    slots[s] = s < stage_ ? prompt_tokens_ : Reach(slots[s]);
  }
  KvExtent extent = Extent(slots, slots[0], deep_rows);
  if (scouting() && rows > 0) AddScouts(stage_, &extent);
  return extent;
}

void LazyProgress::FillEntry(PlanSequence* entry) const {
  entry->cut_segment = stages_[1].first_segment;
  if (!phantoms()) entry->dense_segments = entry->cut_segment;
  for (int32_t s = 0; s < stages(); ++s) {
    entry->slot_positions.resize(static_cast<size_t>(stages_[s].end_segment), slots_[s]);
  }
  entry->rules = &policy_.rules;
}

// Where each has stopped its depth tells.
void LazyProgress::AddPhantoms(int32_t begin, int32_t end, std::span<const int32_t> run,
                               int16_t end_layer, PlanSequence* entry) const {
  std::vector<std::vector<int32_t>> cut_at(static_cast<size_t>(stage_) + 1);
  auto next = run.begin();
  for (int32_t position = begin; position < end; ++position) {
    if (next != run.end() && position == *next) {
      ++next;
    } else {
      cut_at[depth_[position]].push_back(position);
    }
  }
  for (int32_t s = 1; s <= stage_; ++s) {
    if (cut_at[s].empty()) continue;
    entry->phantoms.push_back(
        {stages_[s].first_layer, stages_[stage_].first_layer, end_layer, std::move(cut_at[s])});
  }
}

void LazyProgress::AddScoutTile(PlanSequence* entry, StepPlan* plan) const {
  const Stage& stage = stages_[stage_];
  const int32_t tokens = stages_[stage_ - 1].run_tokens, sinks = ScoutSinks();
  const int32_t window = ScoutRows() - sinks;
  std::vector<int32_t> run;
  for (int32_t i = 0; i < sinks; ++i) run.push_back(Token(stage_ - 1, i));
  for (int32_t i = tokens - window; i < tokens; ++i) run.push_back(Token(stage_ - 1, i));
  for (const int32_t position : run) {
    plan->AddRow(entry->TokenAt(position), position, stage.first_layer, stage.scouts.end_layer);
  }
  entry->dense_segments = PlanSequence::kAllDense;
  AddPhantoms(0, prompt_tokens_, run, stage.scouts.end_layer, entry);
  entry->cuts.push_back({.layer = stage.first_layer,
                         .scout_end = stage.scouts.end_layer,
                         .choose = stage.run_tokens,
                         .score_rows = window});
}

void LazyProgress::AddTile(int32_t rows, PlanSequence* entry, StepPlan* plan) const {
  if (looking_back()) return AddDecode(prompt_tokens_ - 1, 1, entry, plan);
  FillEntry(entry);
  if (scouting()) return AddScoutTile(entry, plan);
  const Stage& stage = stages_[stage_];
  for (int32_t i = done_; i < done_ + rows; ++i) {
    const int32_t position = Token(stage_, i);
    plan->AddRow(entry->TokenAt(position), position, stage.first_layer, stage.end_layer);
  }
  if (phantoms() && stage_ > 0) {
    // Those before the tile's last token that no tile before it has brought.
    AddPhantoms(Reach(done_), Reach(done_ + rows), std::span(kept_[stage_]).subspan(done_, rows),
                stage.end_layer, entry);
  }
  const bool ends_stage = done_ + rows == stage.run_tokens;
  if (!ends_stage || stage_ + 1 == stages()) return;
  const Stage& above = stages_[stage_ + 1];
  if (kept_[stage_ + 1].empty() && !above.scouts.any()) {
    entry->cuts.push_back(
        {.layer = stage.end_layer, .choose = above.run_tokens, .score_rows = policy_.rules.window});
  }
}

absl::Status LazyProgress::TakeChoice(int32_t stage, const CutResult& cut) {
  const std::vector<int32_t>& chosen = cut.chosen;
  if (static_cast<int32_t>(chosen.size()) != stages_[stage].run_tokens) {
    return WrongChoice("another number of tokens goes on");
  }
  if (!Ascends(chosen) || chosen.front() < 0 || chosen.back() >= prompt_tokens_ ||
      (stage > 1 && !std::ranges::includes(kept_[stage - 1], chosen))) {
    return WrongChoice("tokens go on that are not there");
  }
  kept_[stage] = chosen;
  return absl::OkStatus();
}

absl::Status LazyProgress::CommitTile(int32_t rows, std::span<const CutResult> cuts) {
  if (scouting()) {
    const Stage& ahead = stages_[stage_];
    extra_token_layers_ += int64_t{rows} * (ahead.scouts.end_layer - ahead.first_layer);
    return TakeChoice(stage_, cuts[0]);
  }
  if (looking_back()) {
    SKIM_RETURN_IF_ERROR(CommitDecode(prompt_tokens_ - 1, 1, cuts));
    extra_token_layers_ += geometry_.layers;
    if (--looks_left_ == 0) EndPrompt();
    return absl::OkStatus();
  }
  const Stage& stage = stages_[stage_];
  if (!cuts.empty()) SKIM_RETURN_IF_ERROR(TakeChoice(stage_ + 1, cuts[0]));
  for (int32_t i = done_; i < done_ + rows; ++i) {
    const int32_t position = Token(stage_, i);
    if (stage_ == 0) {
      ++in_order_;
    } else {
      slots_[stage_].push_back(position);
    }
    Deepen(position);
  }
  done_ += rows;
  if (done_ < stage.run_tokens) return absl::OkStatus();
  ++stage_;
  done_ = 0;
  if (prompt_done()) EndPrompt();
  return absl::OkStatus();
}

void LazyProgress::EndPrompt() {
  const bool dropped = dropped_at_ >= 0 && dropped_at_ <= prompt_tokens_;
  if (!MayRevive() || dropped) {
    ForgetHidden();
  } else {
    ForgetUnrevivable();
  }
}

// --- decoding ---

bool LazyProgress::Chooses() const {
  return choosing_from_ < stages() && (policy_.decode == DecodeMode::kStrict || revives());
}

int32_t LazyProgress::Choice(int32_t stage, int32_t length) const {
  return std::max(
      {policy_.min_keep, ShareOf(stages_[stage].keep, length), policy_.rules.Forced(length)});
}

// A token of depth s can be revived into stage s, and so can one that this very step brings
// to depth s. None is brought there where the revived run all layers, late.
std::vector<int32_t> LazyProgress::Reserves() const {
  std::vector<int32_t> reserves(stages_.size(), 0);
  if (!revives()) return reserves;
  for (int32_t s = choosing_from_; s < stages(); ++s) {
    const int32_t brought = late() ? -ComingFrom(s) : reserves[s - 1];
    reserves[s] = std::min(Budget(), at_depth_[s] + brought);
  }
  return reserves;
}

int32_t LazyProgress::ComingFrom(int32_t depth) const {
  return static_cast<int32_t>(std::ranges::count_if(
      coming_, [&](int32_t position) { return depth_[position] == depth; }));
}

int32_t LazyProgress::ReservedRows() const {
  if (stage_ < stages()) return 0;
  if (late()) return static_cast<int32_t>(coming_.size());
  int32_t rows = 0;
  for (const int32_t reserve : Reserves()) rows += reserve;
  return rows;
}

KvExtent LazyProgress::AfterDecode(int32_t position, int32_t rows) const {
  std::vector<int32_t> slots = Reserves();
  const int32_t deep_rows = revives() ? deep_rows_ + (late() ? ComingFrom(1) : slots[1]) : 0;
  slots[0] = position + rows;
  if (phantoms()) return Extent(std::vector<int32_t>(stages_.size(), slots[0]), 0, deep_rows);
  for (int32_t s = 1; s < stages(); ++s) slots[s] += static_cast<int32_t>(slots_[s].size()) + rows;
  return Extent(slots, 0, deep_rows);
}

void LazyProgress::AddDecode(int32_t position, int32_t rows, PlanSequence* entry,
                             StepPlan* plan) const {
  FillEntry(entry);
  if (Chooses()) {
    const std::vector<int32_t> reserves = Reserves();
    for (const int32_t token : coming_) {
      plan->AddRow(entry->TokenAt(token), token, stages_[depth_[token]].first_layer,
                   geometry_.layers);
    }
    for (int32_t s = choosing_from_; s < stages(); ++s) {
      if (!Cuts(s, reserves)) continue;
      const int16_t layer = stages_[s].first_layer;
      entry->cuts.push_back({.layer = layer,
                             .choose = Choice(s, position + 1),
                             .revive = reserves[s],
                             .late = late()});
      if (late()) continue;
      plan->tokens.insert(plan->tokens.end(), static_cast<size_t>(reserves[s]), 0);
      plan->positions.insert(plan->positions.end(), static_cast<size_t>(reserves[s]),
                             kReservedPosition);
      plan->enter.insert(plan->enter.end(), static_cast<size_t>(reserves[s]), layer);
      plan->leave.insert(plan->leave.end(), static_cast<size_t>(reserves[s]), layer);
    }
  }
  for (int32_t p = position; p < position + rows; ++p) {
    plan->tokens.push_back(entry->TokenAt(p));
    plan->positions.push_back(p);
    plan->enter.push_back(0);
    plan->leave.push_back(geometry_.layers);
  }
}

absl::Status LazyProgress::CommitDecode(int32_t position, int32_t rows,
                                        std::span<const CutResult> cuts) {
  const std::vector<int32_t> reserves = Reserves();
  RunRevived();
  auto cut = cuts.begin();
  for (int32_t s = choosing_from_; s < stages() && cut != cuts.end(); ++s) {
    if (Cuts(s, reserves)) SKIM_RETURN_IF_ERROR(TakeRevived(*cut++, s, reserves[s]));
  }
  std::ranges::sort(coming_);
  for (int32_t s = 1; s < stages(); ++s) {
    for (int32_t p = in_order_; p < position + rows; ++p) slots_[s].push_back(p);
  }
  in_order_ = position + rows;
  if (prompt_done() && dropped_at_ >= 0 && dropped_at_ <= position + rows) ForgetHidden();
  return absl::OkStatus();
}

// Those that came late have run all stages above the one where they had stopped.
void LazyProgress::RunRevived() {
  for (const int32_t token : std::exchange(coming_, {})) {
    for (int32_t s = depth_[token]; s < stages(); ++s) {
      slots_[s].push_back(token);
      Deepen(token);
      ++revived_;
    }
  }
}

absl::Status LazyProgress::TakeRevived(const CutResult& cut, int32_t stage, int32_t most) {
  const std::vector<int32_t>& revived = cut.revived;
  if (static_cast<int32_t>(revived.size()) > most || !Ascends(revived)) {
    return WrongChoice("too many tokens are revived, or one twice");
  }
  for (const int32_t token : revived) {
    if (token < 0 || token >= prompt_tokens_ || depth_[token] != stage) {
      return WrongChoice("a token is revived that is not there");
    }
    if (late()) {
      coming_.push_back(token);
      continue;
    }
    slots_[stage].push_back(token);
    Deepen(token);
    ++revived_;
  }
  return absl::OkStatus();
}

// --- memory ---

KvExtent LazyProgress::CaughtUp(int32_t total, int32_t computed) const {
  std::vector<int32_t> slots(stages_.size());
  slots[0] = total;
  const bool may_revive = MayRevive() && dropped_at_ < 0;
  const int32_t most_revived = std::max(policy_.revival_budget, policy_.look_back);
  for (int32_t s = 1; s < stages(); ++s) {
    slots[s] = prompt_done() ? static_cast<int32_t>(slots_[s].size()) + total - computed
                             : stages_[s].run_tokens + total - prompt_tokens_;
    slots[s] = std::max(slots[s], slots_before_[s] + 1);
    // The first step after that must find its room too.
    if (may_revive && s >= choosing_from_) slots[s] += most_revived;
    if (phantoms()) slots[s] = total;
  }
  if (prompt_done() && !revives()) return Extent(slots, 0, 0);
  const int32_t deep_rows =
      std::max(prompt_done() ? deep_rows_ : stages_[1].run_tokens, deep_rows_before_) +
      (may_revive ? most_revived : 0);
  KvExtent extent =
      Extent(slots, prompt_done() ? 0 : prompt_tokens_, std::min(deep_rows, prompt_tokens_));
  for (int32_t s = 1; s < stages(); ++s) {
    if (stages_[s].scouts.any() && kept_[s].empty()) AddScouts(s, &extent);
  }
  return extent;
}

void LazyProgress::Deepen(int32_t position) {
  --at_depth_[depth_[position]];
  const int32_t depth = ++depth_[position];
  ++at_depth_[depth];
  if (!hidden_kept_ || depth < 2) return;
  if (depth == 2) {
    const int32_t block = position / geometry_.page_tokens;
    if (--hidden_live_[block] == 0) useless_.blocks.push_back(block);
    if (HasDeepRows()) deep_index_[position] = deep_rows_++;
  }
  if (!HasDeepRows()) return;
  const int32_t rows = geometry_.hidden_rows_per_page;
  deep_live_.resize(static_cast<size_t>((deep_rows_ + rows - 1) / rows), rows);
  if (depth < stages()) return;
  const int32_t page = deep_index_[position] / rows;
  if (--deep_live_[page] == 0) useless_.deep_pages.push_back(page);
  if (at_depth_[0] == 0 && hidden_rows() == 0) useless_.all = true;  // nobody will take the rest
}

void LazyProgress::ForgetHidden() {
  if (!hidden_kept_) return;
  hidden_kept_ = false;
  coming_.clear();
  useless_ = {.all = true, .blocks = {}, .deep_pages = {}};
}

// Those of tokens that were cut where nobody who decodes chooses.
void LazyProgress::ForgetUnrevivable() {
  if (choosing_from_ == 1) return;
  for (size_t block = 0; block < hidden_live_.size(); ++block) {
    const bool known = std::exchange(hidden_live_[block], 0) == 0;
    if (!known) useless_.blocks.push_back(static_cast<int32_t>(block));
  }
  for (int32_t position = 0; position < prompt_tokens_; ++position) {
    if (depth_[position] < 2 || depth_[position] >= choosing_from_) continue;
    const int32_t page = deep_index_[position] / geometry_.hidden_rows_per_page;
    if (--deep_live_[page] == 0) useless_.deep_pages.push_back(page);
  }
  useless_.all = hidden_rows() == 0;
}

void LazyProgress::DropHidden(int32_t position) {
  dropped_at_ = position;
  ForgetHidden();
}

// --- report ---

std::vector<int32_t> LazyProgress::SegmentTokens() const {
  std::vector<int32_t> tokens;
  int32_t deeper = prompt_tokens_;
  for (int32_t s = 0; s < stages(); ++s) {
    deeper -= at_depth_[s];
    tokens.resize(static_cast<size_t>(stages_[s].end_segment), deeper - (s == 0 ? cached_ : 0));
  }
  return tokens;
}

int32_t LazyProgress::kept() const { return stages_.back().run_tokens; }

int32_t LazyProgress::hidden_rows() const {
  if (!hidden_kept_) return 0;
  const auto first = at_depth_.begin() + (prompt_done() ? choosing_from_ : 1);
  return std::reduce(first, at_depth_.end() - 1);
}

int64_t LazyProgress::token_layers() const {
  int64_t sum = 0;
  for (int32_t d = 1; d <= stages(); ++d) {
    sum += int64_t{at_depth_[d]} * stages_[d - 1].end_layer;
  }
  return sum;
}

}  // namespace skim
