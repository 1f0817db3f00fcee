// What rounds of speculation ask for before a step, and what becomes of their drafts behind it.
#include <algorithm>
#include <vector>

#include "scheduler/scheduler.h"

namespace skim {

// A pruned sequence whose every step chooses anew who is revived takes its tokens one by one:
// only so does each of them see what it would see without drafts.
void Scheduler::Propose() {
  const int64_t lookups = answers_.lookups(), hits = answers_.hits();
  for (const auto& sequence : running_) {
    Sequence& s = *sequence;
    if (!s.speculation) continue;
    const bool ready = s.decoding() && s.schedulable() && s.report.generated_tokens > 0 &&
                       (!s.lazy || s.lazy->DecodeRows(2) == 2);
    // The last token of all needs no draft: the draw behind the drafts gives it.
    const int32_t left = std::min(s.request.sampling.max_tokens - s.report.generated_tokens,
                                  config_.max_context - s.total()) -
                         1;
    s.speculation->Propose(s.tokens, ready ? left : 0);
  }
  stats_.answer_lookups = answers_.lookups() - lookups;
  stats_.answer_hits = answers_.hits() - hits;
  ChooseDrafts();
}

void Scheduler::ChooseDrafts() {
  AutoSpeculation::Load load;
  std::vector<Speculation*> asking;
  std::vector<WeightFormat> formats;
  const auto has_prompt = [](const auto& s) { return s->schedulable() && !s->decoding(); };
  load.prompts = std::ranges::any_of(running_, has_prompt) ||
                 std::ranges::any_of(waiting_, [](const auto& s) { return s->schedulable(); });
  for (const auto& s : running_) {
    if (!s->decoding() || !s->schedulable()) continue;
    const int32_t drafts = s->wanted_drafts();
    load.decoding[static_cast<size_t>(s->request.weight_format)] += 1 + drafts;
    load.others_draft |= drafts > 0 || (s->speculation && !s->speculation->automatic() &&
                                        s->speculation->catch_up() > 0);
    if (!s->speculation || s->speculation->offers().empty() || !s->speculation->automatic()) {
      continue;
    }
    asking.push_back(s->speculation.get());
    formats.push_back(s->request.weight_format);
  }
  auto_speculation_.Choose(asking, formats, load);
  int32_t catch_up = auto_speculation_.CatchUpRows();
  for (const auto& s : running_) {
    if (!s->speculation || !s->speculation->automatic()) continue;
    s->speculation->LimitCatchUp(catch_up);
    catch_up -= s->speculation->catch_up();
  }
}

void Scheduler::SettleDrafts(Sequence& sequence, std::span<const SampledToken> drawn) {
  if (!sequence.ended && sequence.speculation) sequence.speculation->Settle(drawn);
}

// Whatever went wrong with a guess, the request does not depend on it.
void Scheduler::CommitDraft(Sequence& sequence, const PlanSequence& planned,
                            const SequenceResult& result) {
  // What the sequence did beside it may have ended its drafting.
  const bool kept = planned.model == PlanModel::kDraft && sequence.speculation->uses_draft_model();
  if (kept && result.status.ok()) {
    sequence.speculation->DraftModelRan(planned.row_count, planned.draws);
  }
  if (planned.draws == 0) return;
  const bool drawn = result.status.ok() && result.sampled.size() == 1;
  sequence.speculation->AddDraft(drawn ? result.sampled[0] : SampledToken());
}

void Scheduler::EndRound(Sequence& sequence, const Run& run) {
  Speculation& speculation = *sequence.speculation;
  if (speculation.automatic()) {
    auto_speculation_.Record(speculation, speculation.Judged(run.tokens), run.accepted);
  }
  speculation.End(run.tokens, run.accepted);
  if (!sequence.lazy) cache_.ReleaseAllHidden(&sequence.kv);  // its exit rows
}

}  // namespace skim
