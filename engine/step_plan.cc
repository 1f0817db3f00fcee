#include "engine/step_plan.h"

#include <sstream>

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

}  // namespace

std::string ToString(const StepPlan& plan) {
  std::ostringstream out;
  for (size_t i = 0; i < plan.sequences.size(); ++i) {
    const PlanSequence& sequence = plan.sequences[i];
    if (i > 0) out << "; ";
    out << "seq " << sequence.id;
    PrintRange(out, "row", "rows", sequence.row_begin, sequence.row_count);
    PrintRange(out, "pos", "pos", plan.positions[sequence.row_begin], sequence.row_count);
    if (sequence.weight_format != WeightFormat::kBf16) {
      out << ' ' << WeightFormatName(sequence.weight_format);
    }
    if (sequence.logits == LogitsWanted::kAll) out << " score";
    if (sequence.sample) out << " sample";
  }
  return out.str();
}

}  // namespace skim
