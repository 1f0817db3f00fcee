// What the scheduler asks the engine to do in one step: plain data, printable and
// comparable. Spans are borrowed from the scheduler's sequences and stay valid until
// StepExecutor::Execute returns.
//
// A row is one token of one sequence. It enters the stack before layer `enter` and leaves
// before layer `leave`; entering at 0 means from the embedding, leaving at L means to the
// head. Anything else passes through the HiddenStore, which lies in pages of the KV pool.
//
// Speculation (LayerSkip, arXiv 2404.16710, section 4; Leviathan et al., arXiv 2211.17192) is
// rows of this kind, too. A draft pass runs one row of a sequence, of its last known token or
// of the draft before, as far as layer E or in another weight format, and draws from it. A
// verify step runs the known token and the drafts x_1 .. x_k as k + 1 rows and draws after
// each, y_1 .. y_{k+1}, all in the request's own format; where exit rows of the same format
// were kept, all but the newest enter at E. Each y_i is drawn exactly as plain decoding would
// draw it at that position after x_1 .. x_{i-1}: so the longest run with x_i == y_i and the y
// behind it are what plain decoding would have written, token for token, also when sampling.
//
// A draft row that leaves at 0 runs no layer: its token goes to the trained draft head, with the
// last hidden row of the position before it (engine/draft_head.h).
//
// Rows may also be those of a draft model, a second and smaller one with the same vocabulary
// (PlanModel::kDraft). It has layers and K/V of its own, in pages of the same pool: so it runs
// every token that it drafts behind once itself, the prompt too, in entries beside those of the
// model.
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

// Whose layers a row runs. A sequence may have an entry for each in one step.
enum class PlanModel : uint8_t { kServed, kDraft };

enum class LogitsWanted : uint8_t {
  kNone,  // a prefill chunk that is not the last
  kLast,  // sample one token after the last row
  kAll,   // prompt log-probabilities too; also samples after the last row if `sample`
};

// How a sequence's tokens are scored and chosen; the same for all its cuts.
struct PruneRules {
  int32_t pool_radius = 3;         // a score is the largest of so many neighbours on each side
  int32_t sinks = 4;               // the first positions are always chosen,
  int32_t window = 1;              // the last ones, which also score in a prefill, and
  std::vector<IndexRange> pinned;  // these, in ascending order
  // The paper's decoding: above a cut the step sees the chosen tokens only (LazyLLM 3.2).
  // Else it sees all there are, and the choice only says who is revived.
  bool strict = false;

  // How many of the positions below `length` are always chosen.
  int32_t Forced(int32_t length) const;
};

// A boundary at which this step scores a sequence's tokens with its last rows. Host and
// device know the counts beforehand; who is chosen is known on the device first.
struct PlanCut {
  int16_t layer = 0;  // of a boundary: rows have run [0, layer)
  // 0, or the rows are scouts, which run [layer, scout_end) ahead of the tokens that they are. What
  // they score there chooses who goes on above `layer`; nothing else of them is kept. Their
  // sequence has no other cut, and all slots of those layers are filled: by the scouts, and by
  // phantoms of everybody else.
  int16_t scout_end = 0;
  int32_t choose = 0;      // that many of the tokens that have K/V below the boundary
  int32_t score_rows = 1;  // of the sequence's rows, the last so many score
  // Of the chosen, those without K/V above the boundary are revived, at most so many, the best
  // first. They go on in this step: so many rows of the sequence are reserved for them
  // (kReservedPosition). Or they are revived late: they are told when the step has ended, and their
  // sequence runs them in its next one. Late ones are scored by the scouts' heads where the
  // boundary has scouts, and phantoms hold their places until then.
  int32_t revive = 0;
  bool late = false;

  bool scouted() const { return scout_end > 0; }
  int32_t reserved_rows() const { return late ? 0 : revive; }
  // Once rows have come so far.
  int32_t chosen_at(int32_t layers) const { return late ? layers : scouted() ? scout_end : layer; }
};

// Hidden rows that are kept of a sequence for the draft head: those behind all draws of a step.
inline constexpr int32_t kFeatureRows = 17;
inline constexpr int32_t kNoFeatures = -1;

// Prompt tokens that were cut, or have not gone on so far, and are seen above all the same
// (phantoms): in these layers a map predicts K/V from the hidden rows with which they stopped, in
// earlier steps, and it is written to their slots before any row of this step runs.
struct PlanPhantoms {
  int16_t cut_layer = 0;    // where they stopped
  int16_t first_layer = 0;  // a boundary, >= cut_layer
  int16_t end_layer = 0;
  std::vector<int32_t> positions;  // ascending, before the sequence's last row, which runs them
};

// A row that becomes that of a revived token, or of nobody. It enters and leaves at its cut.
inline constexpr int32_t kReservedPosition = -1;

struct PlanSequence {
  static constexpr int32_t kAllDense = INT32_MAX;

  SeqId id = 0;
  // Rows of the draft model run all of its layers, in its one weight format and in one segment:
  // `segment_pages` are its own, and nothing is cut or kept.
  PlanModel model = PlanModel::kServed;
  int32_t row_begin = 0;
  int32_t row_count = 0;
  LogitsWanted logits = LogitsWanted::kNone;
  int32_t draws = 0;  // a token is drawn after each of the last so many rows (0 with kNone)
  // A draft pass: its draws are guesses. Its rows may be in any resident weight format, and may
  // leave below L without a hidden row, if nobody goes on with them.
  bool draft = false;
  // Of the model's rows in a draft pass: layers below `leave` that they do not run, ascending
  // (Draft & Verify, arXiv 2309.08168). Such rows leave no hidden rows.
  std::span<const int16_t> skipped;
  // Where its rows for the draft head are kept, [0, KvGeometry::feature_places). A step leaves
  // those that it draws from there, in their order; a draft pass by the head goes on from one and
  // puts its own in its stead.
  int32_t feature_place = kNoFeatures;
  int32_t feature_row = 0;  // [0, kFeatureRows), of such a pass
  const SamplingParams* sampling = nullptr;
  std::span<const TokenId> tokens;  // everything known: prompt, then generated
  std::span<const TokenId> drafts;  // what may follow
  int32_t prompt_tokens = 0;
  // Resident. Products run once per stretch of neighbours of one format.
  WeightFormat weight_format = WeightFormat::kBf16;
  // KV pages per segment: entry block * units + unit, where a block is page_tokens slots.
  std::vector<std::span<const PageId>> segment_pages;
  // The first segment above the sequence's first cut; kAllDense if it is not pruned. From this one
  // on, slot_positions lists the positions that have run the segment before this step, in the order
  // in which they came.
  int32_t cut_segment = kAllDense;
  // Segments below this one hold position i in slot i; the others, if any, are those from
  // cut_segment on, where that order is the order of the slots: rows take those behind them in
  // ascending position. Where phantoms fill the places of what was cut, all are dense.
  int32_t dense_segments = kAllDense;
  std::vector<std::span<const int32_t>> slot_positions;  // [segments], or empty if not pruned
  std::vector<PlanPhantoms> phantoms;
  // HiddenStore, kNoPage where nothing is kept; rows as in KvGeometry. Of the rows that stop at
  // the first cut, or below, page i keeps positions [i * rows, (i + 1) * rows). Those may be shared
  // and are not written again, so rows that stop at later boundaries lie in pages of their own: in
  // the order in which the prompt's tokens came to cut_segment.
  std::span<const PageId> hidden_pages;
  std::span<const PageId> deep_hidden_pages;
  std::vector<PlanCut> cuts;          // ascending
  const PruneRules* rules = nullptr;  // set if there are cuts

  bool scouts() const { return !cuts.empty() && cuts.front().scouted(); }

  // Known or drafted.
  TokenId TokenAt(int32_t position) const {
    const auto known = static_cast<int32_t>(tokens.size());
    return position < known ? tokens[position] : drafts[position - known];
  }
};

struct StepPlan {
  // One entry per row; rows of a sequence are consecutive: the reserved ones first, cut after
  // cut, then in ascending position. Tokens, and drafts of sequences, may be pending ones.
  std::vector<TokenId> tokens;
  std::vector<int32_t> positions;
  std::vector<int16_t> enter;
  std::vector<int16_t> leave;
  std::vector<PlanSequence> sequences;
  // A draft pass: nobody needs to know its draws before a later plan's, so the engine may leave
  // them pending. Penalties count drafts: rows that draw with them want known ones.
  bool put_off = false;

  int32_t rows() const { return static_cast<int32_t>(tokens.size()); }
  bool empty() const { return tokens.empty(); }
  bool ByHead(const PlanSequence& sequence) const {
    return sequence.draft && sequence.model == PlanModel::kServed &&
           leave[static_cast<size_t>(sequence.row_begin)] == 0;
  }
  void AddRow(TokenId token, int32_t position, int32_t enter_layer, int32_t leave_layer) {
    tokens.push_back(token);
    positions.push_back(position);
    enter.push_back(static_cast<int16_t>(enter_layer));
    leave.push_back(static_cast<int16_t>(leave_layer));
  }
};

// "seq 3 rows 0..6 pos 0..6 sample; seq 1 row 7 pos 41 int8 sample" (bf16 goes unsaid), for traces
// and logs.
std::string ToString(const StepPlan& plan);

struct CutResult {  // positions, ascending
  std::vector<int32_t> chosen;
  std::vector<int32_t> revived;  // of those, without K/V above the cut until this step
};

struct SequenceResult {
  absl::Status status;  // this sequence alone failed
  // One per draw, in order of position. Whoever planned the step judges which of them count;
  // one that is not `finite` ends the request only if it does.
  std::vector<SampledToken> sampled;
  // With kAll: element i scores the prompt token that follows row i, for the rows that have one.
  std::vector<SampledToken> prompt_logprobs;
  std::vector<CutResult> cuts;  // parallel to PlanSequence::cuts
};

struct StepResult {
  std::vector<SequenceResult> sequences;  // parallel to StepPlan::sequences
  // The engine has not waited for this plan: what it drew are PendingToken(0), PendingToken(1), ..,
  // counted over all plans since the last that it waited for.
  bool pending = false;
  std::vector<SampledToken> settled;  // of one that it waited for: those draws, by number
  int64_t replays = 0;                // Ops::Replays() of this step
};

// The same of a draft model.
struct DraftModelGeometry {
  int16_t layers = 0;                         // 0: there is none
  int32_t units = 0;                          // pages that a block of page_tokens slots takes
  int32_t context = 0;                        // it can run positions below this one
  WeightFormat format = WeightFormat::kBf16;  // its only one
  int32_t row_layers = 0;  // one of its rows takes as much as one that runs so many of the model's

  bool any() const { return layers > 0; }
};

// Who scores for the cuts at a boundary in place of the rows below it.
struct ScoutGeometry {
  int16_t end_layer = 0;  // scouts run so far; 0: there are none
  int32_t window = 0;     // that many of the last tokens, who score

  bool any() const { return end_layer > 0; }
};

// KV geometry as the scheduler needs to know it: counts, never bytes.
struct KvGeometry {
  int32_t page_tokens = 32;
  int32_t total_pages = 0;
  // Layer units per segment: a block of page_tokens slots in segment s takes
  // segment_units[s] pages. One segment in an unpruned engine.
  std::vector<int32_t> segment_units = {1};
  std::vector<int16_t> boundaries;  // layers between the segments, ascending
  int16_t layers = 0;
  int32_t max_rows = 0;              // rows of a step, reserved ones too; 0: as many as planned
  int32_t hidden_rows_per_page = 0;  // divides page_tokens; 0: hidden rows cannot be kept
  int32_t feature_places = 0;  // sequences that the draft head can draft for; 0: there is none
  std::vector<int16_t> phantom_cuts = {};  // boundaries from whose rows K/V above can be predicted
  std::vector<ScoutGeometry> scouts = {};  // empty, or per boundary
  // Predicting so many tokens' K/V of a layer takes as much as a row that runs it.
  int32_t phantoms_per_row = 1;
  DraftModelGeometry draft_model = {};

  int32_t PagesPerBlock() const {  // over all segments, an unpruned sequence
    int32_t sum = 0;
    for (int32_t units : segment_units) sum += units;
    return sum;
  }
  int32_t HiddenPagesPerBlock() const {
    return hidden_rows_per_page > 0 ? page_tokens / hidden_rows_per_page : 0;
  }
};

}  // namespace skim
