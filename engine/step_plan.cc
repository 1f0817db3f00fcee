#include "engine/step_plan.h"

#include <algorithm>
#include <sstream>

#include "absl/strings/str_join.h"

namespace skim {
namespace {

void PrintRange(std::ostringstream& out, const char* one, const char* many, int32_t first,
                int32_t count) {
  if (count == 1) {
    out << ' ' << one << ' ' << first;
  } else {
    out << ' ' << many << ' ' << first << ".." << first + count - 1;
  }
}

// "pos 0..6", or "pos 3,9..11" where positions jump.
void PrintPositions(std::ostringstream& out, std::span<const int32_t> positions) {
  out << " pos ";
  for (size_t i = 0; i < positions.size(); ++i) {
    const size_t first = i;
    while (i + 1 < positions.size() && positions[i + 1] == positions[i] + 1) ++i;
    if (first > 0) out << ',';
    out << positions[first];
    if (i > first) out << ".." << positions[i];
  }
}

}  // namespace

int32_t PruneRules::Forced(int32_t length) const {
  // Ranges in ascending order of begin, clipped and merged.
  int32_t forced = 0, end = 0;
  const auto add = [&](int32_t from, int32_t to) {
    from = std::max(from, end);
    to = std::min(to, length);
    if (from >= to) return;
    forced += to - from;
    end = to;
  };
  add(0, sinks);
  const int32_t tail = std::max(0, length - window);
  for (const IndexRange& range : pinned) add(range.begin, std::min(range.end, tail));
  add(tail, length);
  return forced;
}

std::string ToString(const StepPlan& plan) {
  std::ostringstream out;
  for (size_t i = 0; i < plan.sequences.size(); ++i) {
    const PlanSequence& sequence = plan.sequences[i];
    if (i > 0) out << "; ";
    out << "seq " << sequence.id;
    PrintRange(out, "row", "rows", sequence.row_begin, sequence.row_count);
    int32_t reserved = 0;
    for (const PlanCut& cut : sequence.cuts) reserved += cut.reserved_rows();
    PrintPositions(out, std::span(plan.positions)
                            .subspan(sequence.row_begin + reserved, sequence.row_count - reserved));
    if (sequence.model == PlanModel::kDraft) out << " of the draft model";
    if (sequence.weight_format != WeightFormat::kBf16) {
      out << ' ' << WeightFormatName(sequence.weight_format);
    }
    const int32_t first = sequence.row_begin + reserved;
    if (sequence.cut_segment != PlanSequence::kAllDense) {
      out << " layers " << plan.enter[first] << ".." << plan.leave[first];
    }
    for (const PlanPhantoms& phantoms : sequence.phantoms) {
      out << " phantoms " << phantoms.positions.size() << " of cut " << phantoms.cut_layer;
    }
    for (const PlanCut& cut : sequence.cuts) {
      out << (cut.scouted() ? " scout cut " : " cut ") << cut.layer << " choose " << cut.choose;
      if (cut.revive > 0) out << (cut.late ? " revive late " : " revive ") << cut.revive;
    }
    if (sequence.logits == LogitsWanted::kAll) out << " score";
    if (plan.ByHead(sequence)) {
      out << " draft by head from row " << sequence.feature_row;
    } else if (sequence.draft && sequence.draws == 0) {
      out << " catch up";
    } else if (sequence.draft) {
      out << " draft to layer " << plan.leave[first];
      if (!sequence.skipped.empty()) {
        out << " without " << absl::StrJoin(sequence.skipped, ",");
      }
    } else if (sequence.draws == 1) {
      out << " sample";
    } else if (sequence.draws > 1) {
      out << " verify " << sequence.draws - 1;
    }
  }
  return out.str();
}

}  // namespace skim
