// What must hold after every step, and of every plan.
#include <gtest/gtest.h>

#include <algorithm>
#include <set>

#include "tests/scheduler/simulation.h"

namespace skim {

void Simulation::CheckPages() {
  const KvLedger& ledger = scheduler_->cache().ledger();
  ASSERT_EQ(ledger.free() + ledger.cached() + ledger.owned(), ledger.total());
  std::vector<int32_t> owners(ledger.total(), 0);
  for (const auto& sequence : scheduler_->running()) {
    const KvHoldings& kv = sequence->kv;
    CheckDraftModel(*sequence);
    if (::testing::Test::HasFatalFailure()) return;
    for (const auto* pages : {&kv.hidden, &kv.deep_hidden, &kv.draft_model}) {
      for (const PageId page : *pages) {
        if (page != kNoPage) ++owners[page];
      }
    }
    if (sequence->lazy) {
      CheckPruned(*sequence);
      if (::testing::Test::HasFatalFailure()) return;
      for (const KvSpan& span : kv.segments) {
        for (const PageId page : span.pages) ++owners[page];
      }
      continue;
    }
    if (!sequence->speculation || !sequence->speculation->in_round()) {
      ASSERT_TRUE(kv.hidden.empty());
    }
    ASSERT_TRUE(kv.deep_hidden.empty());
    ASSERT_GE(int64_t{kv.blocks} * geometry_.page_tokens, sequence->computed);
    for (size_t s = 0; s < kv.segments.size(); ++s) {
      ASSERT_EQ(kv.segments[s].pages.size(),
                static_cast<size_t>(kv.blocks) * geometry_.segment_units[s]);
      for (const PageId page : kv.segments[s].pages) ++owners[page];
    }
  }
  for (const auto& sequence : scheduler_->waiting()) {
    ASSERT_EQ(sequence->kv.blocks, 0);
    ASSERT_EQ(sequence->computed, 0);
    CheckDraftModel(*sequence);
    if (::testing::Test::HasFatalFailure()) return;
    ASSERT_TRUE(sequence->kv.draft_model.empty());
  }
  int32_t free = 0;
  int32_t cached = 0;
  for (PageId page = 0; page < ledger.total(); ++page) {
    ASSERT_EQ(ledger.owners(page), owners[page]) << "page " << page;
    free += owners[page] == 0 && !ledger.indexed(page);
    cached += owners[page] == 0 && ledger.indexed(page);
  }
  ASSERT_EQ(ledger.free(), free);
  ASSERT_EQ(ledger.cached(), cached);
}

void Simulation::CheckDraftModel(const Sequence& sequence) {
  const auto pages = static_cast<int32_t>(sequence.kv.draft_model.size());
  const int32_t computed = sequence.speculation ? sequence.speculation->draft_model_computed() : 0;
  if (!sequence.speculation || !sequence.speculation->uses_draft_model()) {
    ASSERT_EQ(pages, 0);
    ASSERT_EQ(computed, 0);
    return;
  }
  ASSERT_EQ(pages % geometry_.draft_model.units, 0);
  ASSERT_LE(computed, pages / geometry_.draft_model.units * geometry_.page_tokens);
  if (!sequence.speculation->in_round()) {
    ASSERT_LT(computed, sequence.total());
  }
}

// Slots of stage s = tokens of depth > s, once each; hidden rows = those of depth 1 .. S - 1.
void Simulation::CheckPruned(const Sequence& sequence) {
  const LazyProgress& lazy = *sequence.lazy;
  const int32_t generated = std::max(0, sequence.computed - sequence.prompt_tokens());
  std::vector<int32_t> deeper(lazy.stages() + 1, 0);
  int32_t hidden = 0;
  for (int32_t t = 0; t < sequence.prompt_tokens(); ++t) {
    for (int32_t d = 0; d < lazy.depth(t); ++d) ++deeper[d];
    const int32_t first = lazy.prompt_done() ? lazy.choosing_from() : 1;
    hidden += lazy.depth(t) >= first && lazy.depth(t) < lazy.stages();
  }
  for (int32_t s = 1; s < lazy.stages(); ++s) {
    const auto slots = lazy.slots(s);
    ASSERT_EQ(static_cast<int32_t>(slots.size()), deeper[s] + generated);
    const std::set<int32_t> once(slots.begin(), slots.end());
    ASSERT_EQ(once.size(), slots.size());
    for (const int32_t position : slots) {
      if (position < sequence.prompt_tokens()) {
        ASSERT_GT(lazy.depth(position), s);
      }
    }
  }
  if (lazy.hidden_rows() > 0) {
    ASSERT_EQ(lazy.hidden_rows(), hidden);
  }
  CheckHidden(sequence);
}

// After a step prompts hold what they have computed: nothing is left of scouts.
void Simulation::CheckPrompts() {
  for (const auto& sequence : scheduler_->running()) {
    if (!sequence->lazy || sequence->lazy->prompt_done()) continue;
    const KvExtent extent = sequence->lazy->AfterTile(/*rows=*/0);
    for (size_t s = 1; s < sequence->kv.segments.size(); ++s) {
      ASSERT_EQ(std::ssize(sequence->kv.segments[s].pages),
                scheduler_->cache().BlocksFor(extent.slots[s]) * geometry_.segment_units[s]);
    }
  }
}

// Hidden pages are held exactly while a row in them may be needed.
void Simulation::CheckHidden(const Sequence& sequence) {
  const LazyProgress& lazy = *sequence.lazy;
  const KvHoldings& kv = sequence.kv;
  const bool kept = lazy.hidden_rows() > 0;
  // Who has decoded may revive those above all scouts.
  const int32_t first = lazy.prompt_done() ? lazy.choosing_from() : 0;
  // Those of depth 0 or 1, for whole blocks.
  std::set<int32_t> needed;
  for (int32_t t = 0; t < sequence.prompt_tokens(); ++t) {
    if (lazy.depth(t) < 2 && lazy.depth(t) >= first) needed.insert(t / geometry_.page_tokens);
  }
  for (size_t page = 0; page < kv.hidden.size(); ++page) {
    const int32_t block = static_cast<int32_t>(page) / geometry_.HiddenPagesPerBlock();
    const bool need = needed.contains(block) && (kept || !lazy.prompt_done());
    ASSERT_EQ(kv.hidden[page] != kNoPage, need) << "page " << page;
  }
  // Deeper ones, in the order in which tokens took slots of stage 1.
  std::vector<bool> deep_needed(kv.deep_hidden.size(), false);
  std::vector<int32_t> rows(kv.deep_hidden.size(), 0);
  int32_t index = 0;
  for (const int32_t position : lazy.slots(1)) {
    if (position >= sequence.prompt_tokens() || lazy.stages() == 2) continue;
    const auto page = static_cast<size_t>(index++ / geometry_.hidden_rows_per_page);
    if (page >= rows.size()) {
      ASSERT_FALSE(kept);
      break;
    }
    ++rows[page];
    const int32_t depth = lazy.depth(position);
    if (depth >= first && depth < lazy.stages()) deep_needed[page] = true;
  }
  for (size_t page = 0; page < kv.deep_hidden.size(); ++page) {
    if (!kept && lazy.prompt_done()) {
      ASSERT_EQ(kv.deep_hidden[page], kNoPage);
    } else if (deep_needed[page]) {
      ASSERT_NE(kv.deep_hidden[page], kNoPage);
    } else if (rows[page] == geometry_.hidden_rows_per_page) {
      ASSERT_EQ(kv.deep_hidden[page], kNoPage);
    }
  }
}

// Nothing that is shared or published is written.
void Simulation::CheckWrites(const StepPlan& plan, const PlanSequence& entry) {
  const KvLedger& ledger = scheduler_->cache().ledger();
  const auto own = [&](PageId page) { return ledger.owners(page) == 1 && !ledger.indexed(page); };
  if (entry.model == PlanModel::kDraft) {
    for (const PageId page : entry.segment_pages[0]) ASSERT_TRUE(own(page)) << "of a draft model";
    return;
  }
  for (size_t s = 0; s < entry.segment_pages.size(); ++s) {
    const int32_t units = geometry_.segment_units[s];
    const int32_t begins_at = s == 0 ? 0 : geometry_.boundaries[s - 1];
    if (static_cast<int32_t>(s) >= entry.cut_segment) {
      for (const PageId page : entry.segment_pages[s]) ASSERT_TRUE(own(page)) << "above the cut";
      continue;
    }
    for (int32_t row = entry.row_begin; row < entry.row_begin + entry.row_count; ++row) {
      if (plan.positions[row] == kReservedPosition || plan.enter[row] > 0) continue;
      if (plan.leave[row] <= begins_at) continue;
      const int32_t block = plan.positions[row] / geometry_.page_tokens;
      for (const PageId page : entry.segment_pages[s].subspan(block * units, units)) {
        ASSERT_TRUE(own(page)) << "a shared or published page would be written";
      }
    }
  }
  for (const PageId page : entry.deep_hidden_pages) ASSERT_TRUE(page == kNoPage || own(page));
  if (entry.cut_segment == PlanSequence::kAllDense) return;
  const int32_t first_cut = geometry_.boundaries[entry.cut_segment - 1];
  for (int32_t row = entry.row_begin; row < entry.row_begin + entry.row_count; ++row) {
    if (plan.positions[row] == kReservedPosition || plan.leave[row] != first_cut) continue;
    ASSERT_TRUE(own(entry.hidden_pages[plan.positions[row] / geometry_.hidden_rows_per_page]));
  }
}

// Phantoms take budget, too: who has so many that he exceeds it runs the smallest tile there is.
// That of scouts has one size.
void Simulation::CheckPhantoms(const StepPlan& plan, const PlanSequence& entry) {
  if (entry.phantoms.empty()) return;
  if (entry.scouts()) {
    const ScoutGeometry& scouts =
        geometry_.scouts[std::ranges::find(geometry_.boundaries, entry.cuts[0].layer) -
                         geometry_.boundaries.begin()];
    ASSERT_LE(entry.row_count, entry.rules->sinks + scouts.window);
    ASSERT_EQ(entry.cuts[0].scout_end, scouts.end_layer);
    return;
  }
  int64_t count = 0;
  for (const PlanPhantoms& phantoms : entry.phantoms) count += std::ssize(phantoms.positions);
  const int64_t layers = plan.leave[entry.row_begin] - plan.enter[entry.row_begin];
  const int64_t per_row = geometry_.phantoms_per_row;
  const int64_t cost = (entry.row_count + (count + per_row - 1) / per_row) * layers;
  if (cost <= int64_t{config_.max_rows_per_step} * geometry_.layers) return;
  ASSERT_LE(entry.row_count, std::max(1, entry.rules->window));
}

void Simulation::CheckPlan(const StepPlan& plan) {
  // Draft passes are charged nothing: those of the draft model take no more rows than a step.
  const bool pass = !plan.empty() && plan.sequences[0].draft;
  int64_t token_layers = 0, reserved = 0, of_passes = 0, of_scouts = 0;
  for (const PlanSequence& entry : plan.sequences) {
    if (entry.model == PlanModel::kDraft) {
      token_layers += pass ? 0 : int64_t{entry.row_count} * geometry_.draft_model.row_layers;
      of_passes += pass ? entry.row_count : 0;
      continue;
    }
    // Or looks back.
    const int32_t last = entry.row_begin + entry.row_count - 1;
    const bool decodes = entry.cut_segment != PlanSequence::kAllDense && plan.enter[last] == 0 &&
                         plan.leave[last] == geometry_.layers;
    if (decodes && plan.positions[last] < entry.prompt_tokens) {
      counts_->looked_back += entry.row_count - 1;
    }
    for (int32_t row = entry.row_begin; row < entry.row_begin + entry.row_count; ++row) {
      if (plan.positions[row] == kReservedPosition || (decodes && plan.enter[row] > 0)) {
        ++reserved;  // the latter are revived late
      } else {
        token_layers += plan.leave[row] - plan.enter[row];
      }
    }
    if (!entry.scouts()) continue;
    // They run whatever they cost, if anything was left.
    const PlanCut& cut = entry.cuts[0];
    of_scouts =
        std::max<int64_t>(of_scouts, int64_t{entry.row_count} * (cut.scout_end - cut.layer));
    counts_->scouted += 1;
    counts_->scouted_preempted += clients_.at(entry.id).preemptions > 0;
  }
  const int64_t most_rows =
      std::max(config_.max_rows_per_step, geometry_.max_rows - config_.max_revival_rows);
  ASSERT_LE(token_layers - of_scouts, int64_t{config_.max_rows_per_step} * geometry_.layers);
  ASSERT_LE(reserved, config_.max_revival_rows);
  ASSERT_LE(plan.rows() - reserved - of_passes, most_rows);
  ASSERT_LE(of_passes, most_rows);
  ASSERT_LE(static_cast<int32_t>(scheduler_->running().size()), config_.max_running);
  std::set<SeqId> planned, catching_up;
  for (const PlanSequence& entry : plan.sequences) {
    const bool catches_up = entry.model == PlanModel::kDraft && !pass;
    ASSERT_EQ(entry.draft, pass || catches_up) << "drafts run among other rows";
    ASSERT_TRUE((catches_up ? catching_up : planned).insert(entry.id).second)
        << "twice in one plan";
    const auto found = std::ranges::find_if(scheduler_->running(), [&](const auto& sequence) {
      return sequence->request.id == entry.id;
    });
    ASSERT_NE(found, scheduler_->running().end());
    ASSERT_FALSE((*found)->paused());
    if (entry.model == PlanModel::kDraft) {
      ASSERT_EQ(plan.positions[entry.row_begin], (*found)->speculation->draft_model_computed());
      ASSERT_GT((*found)->report.generated_tokens, 0) << "a first token waits for a draft model";
      ASSERT_EQ(entry.draws, pass ? 1 : 0);
      ASSERT_TRUE(pass || planned.contains(entry.id)) << "the model itself waits";
    } else if (!(*found)->lazy) {
      ASSERT_EQ(plan.positions[entry.row_begin],
                (*found)->computed + (entry.draft ? std::ssize(entry.drafts) : 0));
    }
    CheckWrites(plan, entry);
    CheckPhantoms(plan, entry);
    if (::testing::Test::HasFatalFailure()) return;
  }
  for (const auto& [id, client] : clients_) {
    if (client.channel->cancelled()) {
      ASSERT_FALSE(planned.contains(id)) << "cancelled, yet scheduled";
    }
  }
}

// Nobody who could run is left out for no reason.
void Simulation::CheckProgress(const StepPlan& plan) {
  // Draft models take what is left, so they do not count; nor may they take from who waits.
  int64_t token_layers = 0;
  int32_t rows = 0;
  for (const PlanSequence& entry : plan.sequences) {
    if (entry.model == PlanModel::kDraft) {
      ASSERT_EQ(scheduler_->stats().preempted, 0) << "somebody is preempted for a draft model";
      continue;
    }
    rows += entry.row_count;
    for (int32_t row = entry.row_begin; row < entry.row_begin + entry.row_count; ++row) {
      token_layers += plan.leave[row] - plan.enter[row];
    }
  }
  const bool room = scheduler_->cache().Available() >= geometry_.PagesPerBlock() &&
                    rows < config_.max_rows_per_step;
  const bool budget =
      token_layers + geometry_.layers <= int64_t{config_.max_rows_per_step} * geometry_.layers;
  std::set<SeqId> planned;
  for (const PlanSequence& entry : plan.sequences) {
    if (entry.model == PlanModel::kServed) planned.insert(entry.id);
  }
  bool somebody = false;
  for (const auto& sequence : scheduler_->running()) {
    somebody |= sequence->schedulable();
    if (!room || !budget || !sequence->schedulable() || sequence->missing() != 1) continue;
    if (sequence->lazy) continue;  // they take turns
    ASSERT_TRUE(planned.contains(sequence->request.id)) << "a decode was starved";
  }
  for (const auto& sequence : scheduler_->waiting()) somebody |= sequence->schedulable();
  if (plan.empty()) {
    ASSERT_FALSE(somebody) << "nothing runs though somebody could";
  }
  ASSERT_EQ(static_cast<int64_t>(scheduler_->running().size() + scheduler_->waiting().size()),
            intake_->in_flight());
}

}  // namespace skim
