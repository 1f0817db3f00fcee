// What the scheduler asks the engine to do in one step: plain data, printable and
// comparable. Spans are borrowed from the scheduler's sequences and stay valid until
// StepExecutor::Execute returns.
//
// A row is one token of one sequence. It enters the stack before layer `enter` and leaves
// before layer `leave`; entering at 0 means from the embedding, leaving at L means to the
// head. Anything else passes through the engine's HiddenStore.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "base/types.h"
#include "engine/sampling_params.h"
#include "kernels/sampling.h"
#include "kernels/weight.h"

namespace skim {

enum class LogitsWanted : uint8_t {
  kNone,  // a prefill chunk that is not the last
  kLast,  // sample one token after the last row
  kAll,   // prompt log-probabilities too; also samples after the last row if `sample`
};

struct PlanSequence {
  SeqId id = 0;
  int32_t row_begin = 0;
  int32_t row_count = 0;
  LogitsWanted logits = LogitsWanted::kNone;
  bool sample = false;  // draw the token after the last row (never with kNone)
  const SamplingParams* sampling = nullptr;
  std::span<const TokenId> tokens;  // everything known: prompt, then generated
  int32_t prompt_tokens = 0;
  // Resident. Products run once per stretch of neighbours of one format.
  WeightFormat weight_format = WeightFormat::kBf16;
  // KV pages per segment: entry block * units + unit, where a block is page_tokens slots.
  std::vector<std::span<const PageId>> segment_pages;
};

struct StepPlan {
  // One entry per row; rows of a sequence are consecutive, in ascending position.
  std::vector<TokenId> tokens;
  std::vector<int32_t> positions;
  std::vector<int16_t> enter;
  std::vector<int16_t> leave;
  // Slot of the HiddenStore per row that enters above 0 or leaves below L (others ignore
  // theirs); empty if no row does.
  std::vector<int32_t> hidden_slots;
  std::vector<PlanSequence> sequences;

  int32_t rows() const { return static_cast<int32_t>(tokens.size()); }
  bool empty() const { return tokens.empty(); }
};

// "seq 3 rows 0..6 pos 0..6 sample; seq 1 row 7 pos 41 int8 sample" (bf16 goes unsaid), for traces and logs.
std::string ToString(const StepPlan& plan);

struct SequenceResult {
  absl::Status status;                // this sequence alone failed (say, NaN logits)
  std::vector<SampledToken> sampled;  // tokens to append: none, one, or an accepted run
  // With kAll: element i scores the prompt token that follows row i, for the rows that have one.
  std::vector<SampledToken> prompt_logprobs;
};

struct StepResult {
  std::vector<SequenceResult> sequences;  // parallel to StepPlan::sequences
};

// KV geometry as the scheduler needs to know it: counts, never bytes.
struct KvGeometry {
  int32_t page_tokens = 32;
  int32_t total_pages = 0;
  // Layer units per segment: a block of page_tokens slots in segment s takes
  // segment_units[s] pages. One segment in an unpruned engine.
  std::vector<int32_t> segment_units = {1};
  int16_t layers = 0;

  int32_t PagesPerBlock() const {  // over all segments, an unpruned sequence
    int32_t sum = 0;
    for (int32_t units : segment_units) sum += units;
    return sum;
  }
};

}  // namespace skim
