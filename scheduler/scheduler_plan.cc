// How booked slices become rows of a StepPlan.
#include <algorithm>
#include <utility>

#include "scheduler/scheduler.h"

namespace skim {

void Scheduler::PlanDrafts() {
  std::vector<Sequence*> drafting;
  for (const Decision::Slice& slice : slices_) {
    const Speculation* speculation = slice.sequence->speculation.get();
    if (speculation != nullptr && speculation->drafting()) drafting.push_back(slice.sequence);
  }
  std::ranges::stable_sort(drafting, {}, [](const Sequence* s) {
    const DraftRow& row = s->speculation->row();
    return row.kind();
  });
  for (Sequence* sequence : drafting) AddDraftRow(*sequence);
  const auto may_put_off = [](const Sequence* s) { return s->speculation->may_put_off(); };
  const auto automatic = [](const Sequence* s) { return s->speculation->automatic(); };
  plan_.put_off = !drafting.empty() && std::ranges::all_of(drafting, may_put_off) &&
                  !(std::ranges::any_of(drafting, automatic) &&
                    auto_speculation_.MustTime(plan_, geometry_.layers));
}

void Scheduler::PlanStep() {
  // Rows of one weight format side by side: each stretch of them is a product of its own.
  std::ranges::stable_sort(slices_, {}, [](const Decision::Slice& slice) {
    return slice.sequence->request.weight_format;
  });
  for (const Decision::Slice& slice : slices_) AddToPlan(*slice.sequence, slice.rows);
  for (const Decision::Slice& slice : slices_) {
    if (slice.catch_up == 0) continue;
    Sequence& sequence = *slice.sequence;
    const int32_t end = sequence.speculation->draft_model_computed() + slice.catch_up;
    AddDraftModelRows(sequence, end, /*draws=*/0);
  }
  slices_.clear();
}

PlanSequence Scheduler::Entry(const Sequence& sequence) const {
  PlanSequence entry;
  entry.id = sequence.request.id;
  entry.row_begin = plan_.rows();
  entry.sampling = &sequence.request.sampling;
  entry.tokens = sequence.tokens;
  entry.prompt_tokens = sequence.prompt_tokens();
  entry.weight_format = sequence.request.weight_format;
  if (sequence.speculation) entry.drafts = sequence.speculation->drafts();
  for (const KvSpan& span : sequence.kv.segments) entry.segment_pages.push_back(span.pages);
  entry.hidden_pages = sequence.kv.hidden;
  entry.deep_hidden_pages = sequence.kv.deep_hidden;
  entry.feature_place = sequence.feature_place;
  return entry;
}

void Scheduler::AddEntry(PlanSequence entry, Sequence& sequence, int32_t rows) {
  entry.row_count = plan_.rows() - entry.row_begin;
  stats_.rows += rows;
  const bool by_model = entry.model == PlanModel::kServed && !plan_.ByHead(entry);
  if (by_model) stats_.rows_by_format[static_cast<size_t>(entry.weight_format)] += rows;
  plan_.sequences.push_back(std::move(entry));
  planned_.push_back(&sequence);
  planned_rows_.push_back(rows);
}

void Scheduler::AddDraftModelRows(Sequence& sequence, int32_t end, int32_t draws) {
  PlanSequence entry;
  entry.id = sequence.request.id;
  entry.model = PlanModel::kDraft;
  entry.draft = true;
  entry.row_begin = plan_.rows();
  entry.sampling = &sequence.speculation->draft_sampling();
  entry.tokens = sequence.tokens;
  entry.drafts = sequence.speculation->drafts();
  entry.prompt_tokens = sequence.prompt_tokens();
  entry.weight_format = geometry_.draft_model.format;
  entry.segment_pages.push_back(sequence.kv.draft_model);
  entry.draws = draws;
  if (draws > 0) entry.logits = LogitsWanted::kLast;
  const int32_t first = sequence.speculation->draft_model_computed();
  for (int32_t position = first; position < end; ++position) {
    plan_.AddRow(entry.TokenAt(position), position, /*enter=*/0, geometry_.draft_model.layers);
  }
  stats_.draft_rows += draws;
  stats_.catch_up_rows += end - first - draws;
  AddEntry(std::move(entry), sequence, end - first);
}

void Scheduler::AddDraftRow(Sequence& sequence) {
  const Speculation& speculation = *sequence.speculation;
  if (speculation.row().by_draft_model()) {
    const auto drafts = static_cast<int32_t>(speculation.drafts().size());
    return AddDraftModelRows(sequence, sequence.total() + drafts, /*draws=*/1);
  }
  PlanSequence entry = Entry(sequence);
  entry.skipped = speculation.row().skipped;
  if (sequence.lazy || !entry.skipped.empty()) entry.hidden_pages = {};
  entry.draft = true;
  entry.logits = LogitsWanted::kLast;
  entry.draws = 1;
  entry.sampling = &speculation.draft_sampling();
  if (speculation.row().by_head()) {
    entry.feature_row = speculation.feature_row();
  } else {
    entry.weight_format = speculation.row().format;
  }
  const std::span<const TokenId> before = entry.drafts;
  plan_.AddRow(before.empty() ? sequence.tokens.back() : before.back(),
               sequence.computed + static_cast<int32_t>(before.size()), /*enter=*/0,
               speculation.row().leave);
  stats_.draft_rows += 1;
  AddEntry(std::move(entry), sequence, 1);
}

void Scheduler::AddToPlan(Sequence& sequence, int32_t rows) {
  LazyProgress* lazy = sequence.lazy.get();
  const bool decode = sequence.decoding() && sequence.report.generated_tokens > 0;
  PlanSequence entry = Entry(sequence);
  const auto drafts = static_cast<int32_t>(entry.drafts.size());
  rows += drafts;
  const int32_t end = sequence.computed + rows;
  bool draws = end >= sequence.total();
  if (lazy != nullptr && !lazy->prompt_done()) {
    lazy->AddTile(rows, &entry, &plan_);
    draws = lazy->EndsPrompt(rows) && sequence.total() == sequence.prompt_tokens();
  } else if (lazy != nullptr) {
    lazy->AddDecode(sequence.computed, rows, &entry, &plan_);
  } else {
    const bool late = drafts > 0 && sequence.keeps_exit_rows(geometry_);
    for (int32_t position = sequence.computed; position < end; ++position) {
      // Where the draft passes left off; the newest token has had none.
      const bool joins_late = late && position + 1 < end;
      plan_.AddRow(entry.TokenAt(position), position,
                   joins_late ? sequence.speculation->row().leave : 0, geometry_.layers);
    }
  }
  entry.draws = draws ? 1 + drafts : 0;
  entry.logits = sequence.scoring() ? LogitsWanted::kAll
                 : draws            ? LogitsWanted::kLast
                                    : LogitsWanted::kNone;
  sequence.last_step = steps_;
  (decode ? stats_.decode_rows : stats_.prefill_rows) += rows - drafts;
  stats_.verify_rows += drafts;
  AddEntry(std::move(entry), sequence, rows);
}

}  // namespace skim
