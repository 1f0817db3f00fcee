#include "tests/scheduler/fake_engine.h"

#include <new>
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

bool FakeEngine::CheckShape(const StepPlan& plan, const PlanSequence& sequence) {
  const int32_t begin = sequence.row_begin;
  const int32_t end = begin + sequence.row_count;
  if (sequence.row_count < 1 || end > plan.rows()) {
    Complain(sequence, "rows outside the plan");
    return false;
  }
  for (int32_t row = begin; row < end; ++row) {
    const int32_t position = plan.positions[row];
    if (position != plan.positions[begin] + row - begin) Complain(sequence, "positions jump");
    if (plan.tokens[row] != sequence.tokens[position]) Complain(sequence, "another token");
    if (plan.enter[row] != 0 || plan.leave[row] != geometry_.layers) {
      Complain(sequence, "row does not go through all layers");
    }
  }
  const size_t known = sequence.tokens.size();
  const size_t last = plan.positions[end - 1];
  if (sequence.sample != (last + 1 == known)) Complain(sequence, "samples at the wrong row");
  if (sequence.sample && sequence.logits == LogitsWanted::kNone) Complain(sequence, "no logits");
  if (sequence.segment_pages.size() != geometry_.segment_units.size()) {
    Complain(sequence, "another number of segments");
    return false;
  }
  for (size_t s = 0; s < sequence.segment_pages.size(); ++s) {
    const size_t blocks = last / geometry_.page_tokens + 1;
    if (sequence.segment_pages[s].size() < blocks * geometry_.segment_units[s]) {
      Complain(sequence, "rows without pages");
      return false;
    }
  }
  return true;
}

void FakeEngine::VisitSlots(const PlanSequence& sequence, int32_t position,
                            const std::function<void(Slot&, const Slot&)>& visit) {
  const int32_t block = position / geometry_.page_tokens;
  const uint64_t domain = domain_of(sequence.id);
  for (size_t s = 0; s < sequence.segment_pages.size(); ++s) {
    const int32_t units = geometry_.segment_units[s];
    for (int32_t unit = 0; unit < units; ++unit) {
      const PageId page = sequence.segment_pages[s][block * units + unit];
      Slot& slot = slots_[page * geometry_.page_tokens + position % geometry_.page_tokens];
      visit(slot, {sequence.tokens[position], position, domain, sequence.weight_format,
                   static_cast<int32_t>(s), unit});
    }
  }
}

void FakeEngine::CheckPrefix(const PlanSequence& sequence, int32_t positions) {
  for (int32_t position = 0; position < positions; ++position) {
    VisitSlots(sequence, position, [&](const Slot& held, const Slot& right) {
      if (held != right) {
        Complain(sequence, "position " + std::to_string(position) + " holds token " +
                               std::to_string(held.token) + " of position " +
                               std::to_string(held.position));
      }
    });
  }
}

absl::Status FakeEngine::Execute(const StepPlan& plan, StepResult* result) {
  if (std::exchange(throws, false)) throw std::bad_alloc();
  if (!fault.ok()) return std::exchange(fault, absl::OkStatus());

  int32_t next_row = 0;
  std::set<WeightFormat> formats;
  for (const PlanSequence& sequence : plan.sequences) {
    const bool neighbours = next_row > 0 && (&sequence)[-1].weight_format == sequence.weight_format;
    if (!neighbours && !formats.insert(sequence.weight_format).second) {
      Complain(sequence, "its rows are apart from others of its weight format");
    }
    if (sequence.row_begin != next_row) Complain(sequence, "rows overlap or leave a gap");
    next_row += sequence.row_count;
    if (!CheckShape(plan, sequence)) return absl::InternalError(complaint_);
    for (int32_t i = 0; i < sequence.row_count; ++i) {
      VisitSlots(sequence, plan.positions[sequence.row_begin] + i,
                 [](Slot& held, const Slot& right) { held = right; });
    }
  }
  if (next_row != plan.rows()) return absl::InternalError("rows without a sequence");

  // Read only after all have written, so that two writers of one page are noticed.
  result->sequences.clear();
  for (const PlanSequence& sequence : plan.sequences) {
    SequenceResult& out = result->sequences.emplace_back();
    const int32_t begin = plan.positions[sequence.row_begin];
    const int32_t end = begin + sequence.row_count;
    CheckPrefix(sequence, end);
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
    if (!sequence.sample) continue;
    std::vector<TokenId> prefix(sequence.tokens.begin(), sequence.tokens.end());
    for (int32_t left = run_length(sequence.id); left > 0; --left) {
      SampledToken sampled;
      sampled.token = model_(sequence, prefix);
      prefix.push_back(sampled.token);
      out.sampled.push_back(sampled);
    }
  }
  return absl::OkStatus();
}

}  // namespace skim
