#include "tests/scheduler/fake_engine.h"

#include <algorithm>
#include <new>
#include <numeric>
#include <utility>

namespace skim {
namespace {

uint64_t Hash(uint64_t seed, std::span<const TokenId> tokens) {
  uint64_t hash = seed * 0x9e3779b97f4a7c15u + 1;
  for (const TokenId token : tokens) {
    hash = (hash ^ static_cast<uint32_t>(token)) * 0xd6e8feb86659fd93u;
    hash ^= hash >> 32;
  }
  return hash;
}

TokenId TokenAt(const PlanSequence& sequence, int32_t position) {
  const auto known = static_cast<int32_t>(sequence.tokens.size());
  return position < known ? sequence.tokens[position] : sequence.drafts[position - known];
}

}  // namespace

TokenId HashedNextToken(uint64_t seed, std::span<const TokenId> prefix, int32_t vocabulary) {
  return static_cast<TokenId>((Hash(seed, prefix) >> 8) % static_cast<uint64_t>(vocabulary));
}

float HashedLogprob(std::span<const TokenId> prefix) {
  return -static_cast<float>(Hash(99, prefix) % 1000);
}

FakeEngine::FakeEngine(KvGeometry geometry, FakeModel model)
    : geometry_(std::move(geometry)),
      model_(std::move(model)),
      slots_(static_cast<size_t>(geometry_.total_pages) * geometry_.page_tokens) {}

void FakeEngine::Complain(const PlanSequence& sequence, const std::string& what) {
  if (complaint_.empty()) complaint_ = "seq " + std::to_string(sequence.id) + ": " + what;
}

bool FakeEngine::CheckShape(const StepPlan& plan, const PlanSequence& sequence, Running* running) {
  const int32_t end = sequence.row_begin + sequence.row_count;
  if (sequence.row_count < 1 || end > plan.rows()) {
    Complain(sequence, "rows outside the plan");
    return false;
  }
  int32_t reserved = 0;
  for (const PlanCut& cut : sequence.cuts) reserved += cut.reserved_rows();
  const int32_t begin = sequence.row_begin + reserved;
  for (int32_t row = begin; row < end; ++row) {
    const int32_t position = plan.positions[row];
    const bool pruned = sequence.cut_segment != PlanSequence::kAllDense;
    if (!pruned && position != plan.positions[begin] + row - begin) {
      Complain(sequence, "positions jump");
    }
    const auto drafts = std::ssize(sequence.drafts);
    if (position >= std::ssize(sequence.tokens) + drafts) {
      Complain(sequence, "a row without a token");
      return false;
    }
    if (plan.tokens[row] != TokenAt(sequence, position)) Complain(sequence, "another token");
    const bool joins_late = drafts > 0 && row + 1 < end;
    if (!pruned && !sequence.draft &&
        ((plan.enter[row] != 0 && !joins_late) || plan.leave[row] != geometry_.layers)) {
      Complain(sequence, "row does not go through all layers");
    }
    running->rows.push_back({position, plan.enter[row], plan.leave[row]});
  }
  if (!sequence.draft) formats_[sequence.id] = sequence.weight_format;
  const auto known = std::ssize(sequence.tokens);
  const auto last = plan.positions[end - 1];
  const bool looks_again = sequence.cut_segment != PlanSequence::kAllDense &&
                           last + 1 == sequence.prompt_tokens &&
                           looked_[sequence.id] + 1 < looks(sequence.id);
  const bool at_end = last + 1 == known + std::ssize(sequence.drafts) &&
                      (plan.leave[end - 1] == geometry_.layers || sequence.draft) &&
                      !sequence.scouts() && !looks_again;
  const auto draws = !at_end ? 0 : sequence.draft ? 1 : 1 + std::ssize(sequence.drafts);
  if (sequence.draws != draws) Complain(sequence, "draws at the wrong rows");
  if (draws > end - begin) Complain(sequence, "a draft is not verified");
  if (draws > 0 && sequence.logits == LogitsWanted::kNone) Complain(sequence, "no logits");
  if (sequence.segment_pages.size() != geometry_.segment_units.size()) {
    Complain(sequence, "another number of segments");
    return false;
  }
  running->slots.resize(sequence.segment_pages.size());
  running->dense.resize(sequence.segment_pages.size(), 0);
  for (size_t s = 0; s < sequence.slot_positions.size(); ++s) {
    running->slots[s].assign(sequence.slot_positions[s].begin(), sequence.slot_positions[s].end());
  }
  return true;
}

// The prompt's last token once more, after it has run all layers.
bool FakeEngine::LooksBack(const PlanSequence& sequence, int32_t s, int32_t position) {
  const std::vector<std::set<int32_t>>& computed = computed_[sequence.id];
  const bool again = position + 1 == sequence.prompt_tokens && !computed.empty() &&
                     computed.back().contains(position);
  if (!again || looks(sequence.id) == 0) return false;
  if (s == 0 && ++looked_[sequence.id] > looks(sequence.id)) Complain(sequence, "looks back again");
  return true;
}

FakeEngine::Slot FakeEngine::RightSlot(const PlanSequence& sequence, int32_t position, int32_t s,
                                       int32_t until) const {
  // Rows of draft passes begin at the last known token.
  const bool drafted = sequence.draft && position + 1 >= std::ssize(sequence.tokens);
  return {TokenAt(sequence, position),
          position,
          domain_of(sequence.id),
          drafted ? sequence.weight_format : formats_.at(sequence.id),
          s,
          0,
          until,
          /*cut=*/0};
}

FakeEngine::Slot* FakeEngine::HiddenSlot(const PlanSequence& sequence, const Running& running,
                                         int32_t s, int32_t position) {
  const bool deep = s > sequence.cut_segment;
  int32_t index = position;
  if (deep) {
    const std::vector<int32_t>& slots = running.slots[sequence.cut_segment];
    const auto end = std::ranges::find(slots, position);
    index = static_cast<int32_t>(
        std::count_if(slots.begin(), end, [&](int32_t p) { return p < sequence.prompt_tokens; }));
    if (end == slots.end()) Complain(sequence, "a deep hidden row without a slot");
  }
  const int32_t rows = geometry_.hidden_rows_per_page;
  const auto pages = deep ? sequence.deep_hidden_pages : sequence.hidden_pages;
  const auto page = static_cast<size_t>(index / rows);
  if (page >= pages.size() || pages[page] == kNoPage) {
    Complain(sequence, "no hidden page for position " + std::to_string(position));
    return nullptr;
  }
  return &slots_[pages[page] * geometry_.page_tokens + index % rows];
}

void FakeEngine::VisitSlot(const PlanSequence& sequence, int32_t index, Slot right,
                           const std::function<void(Slot&, const Slot&)>& visit) {
  const int32_t s = right.segment;
  const int32_t units = geometry_.segment_units[s];
  const int32_t block = index / geometry_.page_tokens;
  if (static_cast<int32_t>(sequence.segment_pages[s].size()) < (block + 1) * units) {
    Complain(sequence, "rows without pages");
    return;
  }
  for (int32_t unit = 0; unit < units; ++unit) {
    right.unit = unit;
    const PageId page = sequence.segment_pages[s][block * units + unit];
    visit(slots_[page * geometry_.page_tokens + index % geometry_.page_tokens], right);
  }
}

void FakeEngine::Expect(const PlanSequence& sequence, int32_t index, const Slot& expected) {
  VisitSlot(sequence, index, expected, [&](const Slot& held, const Slot& right) {
    if (held == right) return;
    Complain(sequence, "position " + std::to_string(right.position) + " holds token " +
                           std::to_string(held.token) + " of position " +
                           std::to_string(held.position) + " up to layer " +
                           std::to_string(held.until));
  });
}

void FakeEngine::CountOnce(const PlanSequence& sequence, int32_t s, int32_t position) {
  std::vector<std::set<int32_t>>& computed = computed_[sequence.id];
  if (s == 0 && position == 0) {  // begins, or begins anew
    computed.clear();
    phantoms_[sequence.id].clear();
  }
  computed.resize(geometry_.segment_units.size());
  if (!computed[s].insert(position).second) {
    Complain(sequence, "position " + std::to_string(position) + " is computed twice");
  }
}

// Writes K/V of the rows that run the segment, and moves hidden rows at its ends.
void FakeEngine::RunSegment(const PlanSequence& sequence, int32_t s, Running* running) {
  const int32_t first = FirstLayer(s);
  const int32_t end = EndLayer(s);
  std::ranges::sort(running->rows, {}, &Row::position);
  for (const Row& row : running->rows) {
    const int32_t from = std::max(row.enter, first), to = std::min(row.leave, end);
    if (from >= to) continue;
    if (row.enter == from && from > 0) {
      const Slot* held = HiddenSlot(sequence, *running, s, row.position);
      Slot right = RightSlot(sequence, row.position, kHidden, 0);
      right.unit = from;
      if (held != nullptr && *held != right) Complain(sequence, "another hidden row");
    }
    const bool sparse = s >= sequence.dense_segments;
    const auto slot =
        sparse ? static_cast<int32_t>(running->slots[s].size()) : row.position;
    if (s >= sequence.cut_segment) running->slots[s].push_back(row.position);
    running->dense[s] = std::max(running->dense[s], row.position + 1);
    if (from > first) Expect(sequence, slot, RightSlot(sequence, row.position, s, from));
    VisitSlot(sequence, slot, RightSlot(sequence, row.position, s, to),
              [](Slot& held, const Slot& right) { held = right; });
    // Rows of rejected drafts run again with what is there instead.
    const bool pruned = sequence.cut_segment != PlanSequence::kAllDense;
    if (pruned && sequence.drafts.empty() && !sequence.scouts()) {
      // Who is revived late takes the place of a phantom.
      const bool was_phantom = phantoms_[sequence.id].erase({s, row.position}) > 0;
      if (was_phantom) computed_[sequence.id][s].erase(row.position);
      if (!LooksBack(sequence, s, row.position)) CountOnce(sequence, s, row.position);
    }
    if (row.leave == to && to < geometry_.layers && !sequence.scouts()) {
      if (sequence.draft && sequence.hidden_pages.empty()) continue;
      Slot* held = HiddenSlot(sequence, *running, s + 1, row.position);
      if (held == nullptr) continue;
      *held = RightSlot(sequence, row.position, kHidden, 0);
      held->unit = to;
    }
  }
}

// Chooses as the engine does, by a hash instead of attention.
void FakeEngine::Cut(const PlanSequence& sequence, const PlanCut& cut, Running* running,
                     CutResult* result) {
  int32_t below = 0;
  while (FirstLayer(below + 1) != cut.layer) ++below;
  const int32_t length = running->rows.back().position + 1;
  int32_t scoring = 0;
  for (const Row& row : running->rows) {
    const int32_t chosen_at = cut.chosen_at(geometry_.layers);
    scoring += row.enter < chosen_at && row.leave >= chosen_at;
  }
  if (scoring < cut.score_rows) Complain(sequence, "too few rows score");
  // Late, the row that scores has run other layers than those that chose in the prefill.
  const uint64_t seed = Hash(static_cast<uint64_t>(cut.layer + (cut.late ? geometry_.layers : 0)),
                             sequence.tokens.first(length));
  std::vector<int32_t> present = running->slots[below];
  if (below < sequence.cut_segment) {
    present.resize(static_cast<size_t>(length));
    std::iota(present.begin(), present.end(), 0);
  }
  const auto rank = [&](int32_t position) {
    const PruneRules& rules = *sequence.rules;
    bool forced = position < rules.sinks || position >= length - rules.window;
    for (const IndexRange& range : rules.pinned) {
      forced |= position >= range.begin && position < range.end;
    }
    return std::pair(!forced, Hash(seed, std::span(&position, 1)));
  };
  std::ranges::sort(present, {}, rank);
  present.resize(std::min<size_t>(present.size(), cut.choose));
  const std::vector<int32_t>& above = running->slots[below + 1];
  for (const int32_t position : present) {
    const bool runs_on = std::ranges::any_of(running->rows, [&](const Row& row) {
      return row.position == position && row.leave > cut.layer;
    });
    if (static_cast<int32_t>(result->revived.size()) < cut.revive && !runs_on &&
        std::ranges::find(above, position) == above.end()) {
      result->revived.push_back(position);
    }
  }
  result->chosen = present;
  std::ranges::sort(result->chosen);
  std::ranges::sort(result->revived);
  if (cut.late) return;
  int32_t stop = geometry_.layers;
  for (const PlanCut& other : sequence.cuts) {
    if (other.layer > cut.layer) stop = std::min<int32_t>(stop, other.layer);
  }
  for (const int32_t position : result->revived) {
    running->rows.push_back({position, cut.layer, stop});
  }
  std::ranges::sort(running->rows, {}, &Row::position);
}

FakeEngine::Phantoms& FakeEngine::PhantomsOf(const PlanSequence& sequence, Running* running) {
  return sequence.scouts() ? running->of_scouts : phantoms_[sequence.id];
}

// Before any row runs.
void FakeEngine::Predict(const PlanSequence& sequence, Running* running) {
  for (const PlanPhantoms& phantoms : sequence.phantoms) {
    if (std::ranges::count(geometry_.phantom_cuts, phantoms.cut_layer) == 0) {
      Complain(sequence, "phantoms of a cut from which nothing is predicted");
    }
    for (const int32_t position : phantoms.positions) {
      for (int32_t s = 0; s < Segments(); ++s) {
        if (FirstLayer(s) == phantoms.cut_layer) {
          const Slot* held = HiddenSlot(sequence, *running, s, position);
          Slot right = RightSlot(sequence, position, kHidden, 0);
          right.unit = phantoms.cut_layer;
          if (held != nullptr && *held != right) Complain(sequence, "a phantom of another row");
        }
        if (FirstLayer(s) < phantoms.first_layer || FirstLayer(s) >= phantoms.end_layer) continue;
        Slot right =
            RightSlot(sequence, position, s, std::min<int32_t>(EndLayer(s), phantoms.end_layer));
        right.cut = phantoms.cut_layer;
        if (!sequence.scouts()) CountOnce(sequence, s, position);
        PhantomsOf(sequence, running)[{s, position}] = phantoms.cut_layer;
        VisitSlot(sequence, position, right, [](Slot& to, const Slot& from) { to = from; });
      }
    }
  }
}

// Every slot of a segment that ran holds what it should.
void FakeEngine::CheckSlots(const PlanSequence& sequence, Running* of) {
  const Running& running = *of;
  const Phantoms& phantoms = PhantomsOf(sequence, of);
  for (int32_t s = 0; s < Segments(); ++s) {
    if (running.dense[s] == 0) continue;
    const bool sparse = s >= sequence.dense_segments;
    const auto slots = sparse ? static_cast<int32_t>(running.slots[s].size()) : running.dense[s];
    for (int32_t slot = 0; slot < slots; ++slot) {
      const int32_t position = sparse ? running.slots[s][slot] : slot;
      const bool drafted = sequence.draft && position + 1 >= std::ssize(sequence.tokens);
      const int32_t until = drafted || sequence.scouts()
                                ? std::min(running.rows.back().leave, EndLayer(s))
                                : EndLayer(s);
      Slot right = RightSlot(sequence, position, s, until);
      const auto phantom = phantoms.find({s, position});
      if (phantom != phantoms.end()) right.cut = phantom->second;
      Expect(sequence, slot, right);
    }
  }
}

void FakeEngine::Draw(const PlanSequence& sequence, const Running& running,
                      SequenceResult* result) {
  const int32_t last = running.rows.back().position;
  for (int32_t position = last - sequence.draws + 1; position <= last; ++position) {
    std::vector<TokenId> text, seen;
    for (int32_t p = 0; p <= position; ++p) text.push_back(TokenAt(sequence, p));
    for (const std::vector<int32_t>& slots : running.slots) {
      std::ranges::copy_if(slots, std::back_inserter(seen),
                           [&](int32_t p) { return p <= position; });
    }
    for (const CutResult& cut : result->cuts) {
      seen.insert(seen.end(), cut.chosen.begin(), cut.chosen.end());
    }
    SampledToken sampled;
    sampled.token = model_(sequence, text, seen);
    if (sequence.draft) sampled.token = draft(sequence.id, sampled.token);
    const bool speculates = sequence.draft || !sequence.drafts.empty();
    if (speculates && unusable(sequence.id)) {
      sampled = SampledToken();
      sampled.finite = false;
    }
    result->sampled.push_back(std::move(sampled));
  }
}

void FakeEngine::KeepFeatures(const StepPlan& plan, const PlanSequence& sequence) {
  const int32_t place = sequence.feature_place;
  const bool by_head = plan.ByHead(sequence);
  if (place == kNoFeatures ? by_head : place < 0 || place >= geometry_.feature_places) {
    return Complain(sequence, "no such place for its hidden rows");
  }
  if (place == kNoFeatures || (sequence.draft && !by_head)) return;
  const auto text = [&](int32_t tokens) {
    std::vector<TokenId> out;
    for (int32_t p = 0; p < tokens; ++p) out.push_back(TokenAt(sequence, p));
    return out;
  };
  const int32_t end = sequence.row_begin + sequence.row_count;
  for (int32_t i = 0; i < sequence.draws; ++i) {
    const int32_t position = plan.positions[end - sequence.draws + i];
    std::vector<TokenId>& kept = features_[{place, by_head ? sequence.feature_row : i}];
    if (by_head && kept != text(position)) {
      Complain(sequence, "the draft head goes on from another row");
    }
    kept = text(position + 1);
  }
}

bool FakeEngine::CheckDraftModelRows(const StepPlan& plan, const PlanSequence& sequence) {
  const DraftModelGeometry& model = geometry_.draft_model;
  const int32_t begin = sequence.row_begin, end = begin + sequence.row_count;
  if (!model.any() || sequence.row_count < 1 || end > plan.rows() ||
      sequence.segment_pages.size() != 1) {
    Complain(sequence, "no rows of a draft model");
    return false;
  }
  for (int32_t row = begin; row < end; ++row) {
    const int32_t position = plan.positions[row];
    if (position != plan.positions[begin] + row - begin || position >= model.context) {
      Complain(sequence, "positions of the draft model jump, or are beyond its context");
    }
    if (position >= std::ssize(sequence.tokens) + std::ssize(sequence.drafts)) {
      Complain(sequence, "a row of the draft model without a token");
      return false;
    }
    if (plan.tokens[row] != TokenAt(sequence, position)) Complain(sequence, "another token");
    if (plan.enter[row] != 0 || plan.leave[row] != model.layers) {
      Complain(sequence, "a row does not go through all layers of the draft model");
    }
  }
  const bool at_end =
      plan.positions[end - 1] + 1 == std::ssize(sequence.tokens) + std::ssize(sequence.drafts);
  if (sequence.draws > (at_end ? 1 : 0) || !sequence.draft) {
    Complain(sequence, "the draft model draws at the wrong row");
  }
  if (sequence.weight_format != model.format)
    Complain(sequence, "another format of the draft model");
  const int32_t blocks = plan.positions[end - 1] / geometry_.page_tokens + 1;
  if (std::ssize(sequence.segment_pages[0]) < int64_t{blocks} * model.units) {
    Complain(sequence, "rows of the draft model without pages");
    return false;
  }
  return true;
}

void FakeEngine::VisitDraftModelSlots(const PlanSequence& sequence, int32_t first, int32_t end,
                                      const std::function<void(Slot&, const Slot&)>& visit) {
  const int32_t units = geometry_.draft_model.units;
  for (int32_t position = first; position < end; ++position) {
    Slot right{TokenAt(sequence, position),
               position,
               domain_of(sequence.id),
               sequence.weight_format,
               kDraftModel,
               0,
               geometry_.draft_model.layers,
               0};
    for (right.unit = 0; right.unit < units; ++right.unit) {
      const int32_t block = position / geometry_.page_tokens;
      const PageId page = sequence.segment_pages[0][block * units + right.unit];
      visit(slots_[page * geometry_.page_tokens + position % geometry_.page_tokens], right);
    }
  }
}

void FakeEngine::DrawFromDraftModel(const StepPlan& plan, const PlanSequence& sequence,
                                    SequenceResult* result) {
  const int32_t end = plan.positions[sequence.row_begin + sequence.row_count - 1] + 1;
  VisitDraftModelSlots(sequence, 0, end, [&](const Slot& held, const Slot& right) {
    if (held == right) return;
    Complain(sequence,
             "the draft model finds another token at position " + std::to_string(right.position));
  });
  if (broken.contains(sequence.id)) {
    result->status = absl::InternalError("broken on purpose");
    return;
  }
  if (sequence.draws == 0) return;
  std::vector<TokenId> text;
  for (int32_t p = 0; p < end; ++p) text.push_back(TokenAt(sequence, p));
  SampledToken& sampled = result->sampled.emplace_back();
  sampled.token = draft(sequence.id, model_(sequence, text, {}));
  if (!unusable(sequence.id)) return;
  sampled = SampledToken();
  sampled.finite = false;
}

absl::Status FakeEngine::Execute(const StepPlan& plan, StepResult* result) {
  if (std::exchange(throws, false)) throw std::bad_alloc();
  if (!fault.ok()) return std::exchange(fault, absl::OkStatus());

  int32_t next_row = 0;
  std::set<WeightFormat> formats;
  std::vector<Running> running;
  for (const PlanSequence& sequence : plan.sequences) {
    if (sequence.model == PlanModel::kDraft) {
      running.emplace_back();
      if (sequence.row_begin != next_row) Complain(sequence, "rows overlap or leave a gap");
      next_row += sequence.row_count;
      if (!CheckDraftModelRows(plan, sequence)) return absl::InternalError(complaint_);
      continue;
    }
    const bool neighbours = next_row > 0 && (&sequence)[-1].weight_format == sequence.weight_format;
    if (!neighbours && !plan.ByHead(sequence) && !formats.insert(sequence.weight_format).second) {
      Complain(sequence, "its rows are apart from others of its weight format");
    }
    if (sequence.row_begin != next_row) Complain(sequence, "rows overlap or leave a gap");
    next_row += sequence.row_count;
    if (!CheckShape(plan, sequence, &running.emplace_back())) return absl::InternalError(complaint_);
  }
  if (next_row != plan.rows()) return absl::InternalError("rows without a sequence");
  result->sequences.assign(plan.sequences.size(), SequenceResult());
  for (size_t i = 0; i < running.size(); ++i) {
    const PlanSequence& sequence = plan.sequences[i];
    Predict(sequence, &running[i]);
    if (sequence.model == PlanModel::kServed) continue;
    const int32_t first = plan.positions[sequence.row_begin];
    VisitDraftModelSlots(sequence, first, first + sequence.row_count,
                         [](Slot& held, const Slot& right) { held = right; });
  }
  for (int32_t s = 0; s < Segments(); ++s) {
    for (size_t i = 0; i < running.size(); ++i) {
      const PlanSequence& sequence = plan.sequences[i];
      if (sequence.model == PlanModel::kDraft) continue;
      result->sequences[i].cuts.resize(sequence.cuts.size());
      for (size_t c = 0; c < sequence.cuts.size(); ++c) {
        if (s > 0 && sequence.cuts[c].layer == FirstLayer(s)) {
          Cut(sequence, sequence.cuts[c], &running[i], &result->sequences[i].cuts[c]);
        }
      }
      RunSegment(sequence, s, &running[i]);
    }
  }

  // Read only after all have written, so that two writers of one page are noticed.
  for (size_t i = 0; i < running.size(); ++i) {
    const PlanSequence& sequence = plan.sequences[i];
    SequenceResult& out = result->sequences[i];
    if (sequence.model == PlanModel::kDraft) {
      DrawFromDraftModel(plan, sequence, &out);
      continue;
    }
    const int32_t begin = plan.positions[sequence.row_begin];
    const int32_t end = begin + sequence.row_count;
    CheckSlots(sequence, &running[i]);
    KeepFeatures(plan, sequence);
    if (broken.contains(sequence.id)) {
      out.status = absl::InternalError("broken on purpose");
      continue;
    }
    if (sequence.logits == LogitsWanted::kAll) {
      for (int32_t next = begin + 1; next <= end && next < sequence.prompt_tokens; ++next) {
        SampledToken score;
        score.token = sequence.tokens[next];
        score.logprob = HashedLogprob(sequence.tokens.first(next + 1));
        out.prompt_logprobs.push_back(score);
      }
    }
    Draw(sequence, running[i], &out);
  }
  return absl::OkStatus();
}

}  // namespace skim
