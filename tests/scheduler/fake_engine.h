// A StepExecutor without arithmetic, but with a memory: every row writes what it is into the
// slots of its pages, and before a token is drawn the whole prefix is read back through the
// block tables. Hidden rows lie in the same pages. Cuts choose by a hash of the sequence alone,
// and what a pruned sequence draws depends on all its slots, in order. So a lost, foreign or
// overwritten page shows at once, K/V of a draft in place of the model's own too, and since the
// model's next token is a function of the whole prefix, any slip of the scheduler changes the
// output.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <set>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "engine/step_executor.h"

namespace skim {

// The token that follows `text` in the fake model. `seen`: of a pruned sequence, the positions
// of its slots and of the tokens chosen.
using FakeModel = std::function<TokenId(const PlanSequence& sequence, std::span<const TokenId> text,
                                        std::span<const TokenId> seen)>;

// A hash of seed and prefix, below `vocabulary`.
TokenId HashedNextToken(uint64_t seed, std::span<const TokenId> prefix, int32_t vocabulary);
// The fake log-probability of the last token of `prefix`.
float HashedLogprob(std::span<const TokenId> prefix);

class FakeEngine : public StepExecutor {
 public:
  FakeEngine(KvGeometry geometry, FakeModel model);

  absl::Status Execute(const StepPlan& plan, StepResult* result) override;
  const KvGeometry& kv_geometry() const override { return geometry_; }

  // Pages written by one domain must never be read by another, nor by another weight format.
  std::function<uint64_t(SeqId)> domain_of = [](SeqId) { return uint64_t{0}; };
  // What a draft pass draws where the model would draw `right`.
  std::function<TokenId(SeqId, TokenId right)> draft = [](SeqId, TokenId right) { return right; };
  // Whether a draw of a draft pass or a verify step comes from logits that are not finite.
  std::function<bool(SeqId)> unusable = [](SeqId) { return false; };
  // How often the prompt's last token runs once more before a token is drawn.
  std::function<int32_t(SeqId)> looks = [](SeqId) { return 0; };
  // The sequence was preempted: what it computes from now on it computes anew.
  void Restarted(SeqId id) {
    computed_.erase(id);
    phantoms_.erase(id);
    looked_.erase(id);
  }
  std::set<SeqId> broken;  // these fail alone
  absl::Status fault;      // the next Execute returns and clears this
  bool throws = false;     // the next Execute throws std::bad_alloc

  // The first thing that was wrong with a plan or with what its pages hold; empty if nothing.
  const std::string& complaint() const { return complaint_; }

 private:
  // What a slot of a page holds: K/V of a token in a unit of a segment, or its hidden row.
  struct Slot {
    TokenId token = kNoToken;
    int32_t position = -1;
    uint64_t domain = 0;
    WeightFormat format = WeightFormat::kBf16;
    int32_t segment = -1;  // kHidden for hidden rows, kDraftModel for K/V of the draft model
    int32_t unit = -1;     // of hidden rows: the layer they left before
    int32_t until = -1;    // K/V exists in the segment's layers below this one
    int32_t cut = 0;       // predicted from the hidden row that stopped here; 0: computed
    bool operator==(const Slot&) const = default;
  };
  static constexpr int32_t kHidden = -2, kDraftModel = -3;

  struct Row {
    int32_t position;
    int32_t enter, leave;
  };
  using Phantoms = std::map<std::pair<int32_t, int32_t>, int32_t>;  // (segment, position): cut
  // A sequence in this step: its rows, and its slots per segment as they grow.
  struct Running {
    std::vector<Row> rows;
    std::vector<std::vector<int32_t>> slots;  // above the first cut: who came, in order
    std::vector<int32_t> dense;               // dense segments: slots in use after the step
    Phantoms of_scouts;
  };

  void Complain(const PlanSequence& sequence, const std::string& what);
  bool CheckShape(const StepPlan& plan, const PlanSequence& sequence, Running* running);
  int32_t FirstLayer(int32_t segment) const {
    return segment == 0 ? 0 : geometry_.boundaries[segment - 1];
  }
  int32_t Segments() const { return static_cast<int32_t>(geometry_.segment_units.size()); }
  int32_t EndLayer(int32_t segment) const {
    return segment + 1 == Segments() ? geometry_.layers : FirstLayer(segment + 1);
  }
  // Where a sequence's row has run segment `s` up to layer `until`.
  Slot RightSlot(const PlanSequence& sequence, int32_t position, int32_t s, int32_t until) const;
  // Of the row of this position that stops before segment `s`, or goes on there.
  Slot* HiddenSlot(const PlanSequence& sequence, const Running& running, int32_t s,
                   int32_t position);
  // Units of segment `right.segment` at slot `index`.
  void VisitSlot(const PlanSequence& sequence, int32_t index, Slot right,
                 const std::function<void(Slot& held, const Slot& right)>& visit);
  void Expect(const PlanSequence& sequence, int32_t index, const Slot& right);
  bool LooksBack(const PlanSequence& sequence, int32_t segment, int32_t position);
  void CountOnce(const PlanSequence& sequence, int32_t segment, int32_t position);
  void RunSegment(const PlanSequence& sequence, int32_t segment, Running* running);
  void Cut(const PlanSequence& sequence, const PlanCut& cut, Running* running, CutResult* result);
  // What scouts see is of their step alone.
  Phantoms& PhantomsOf(const PlanSequence& sequence, Running* running);
  void Predict(const PlanSequence& sequence, Running* running);
  void CheckSlots(const PlanSequence& sequence, Running* of);
  void Draw(const PlanSequence& sequence, const Running& running, SequenceResult* result);
  // The draft model has K/V of its own, of every token before those that it runs.
  bool CheckDraftModelRows(const StepPlan& plan, const PlanSequence& sequence);
  void VisitDraftModelSlots(const PlanSequence& sequence, int32_t first, int32_t end,
                            const std::function<void(Slot& held, const Slot& right)>& visit);
  void DrawFromDraftModel(const StepPlan& plan, const PlanSequence& sequence,
                          SequenceResult* result);
  // The rows that the draft head goes on from: kept, and found to be those of the tokens before.
  void KeepFeatures(const StepPlan& plan, const PlanSequence& sequence);

  const KvGeometry geometry_;
  const FakeModel model_;
  std::map<SeqId, int32_t> looked_;  // how often it has, of `looks`
  std::vector<Slot> slots_;  // page * page_tokens + slot
  // [segment] positions that a pruned sequence has computed since it last began.
  std::map<SeqId, std::vector<std::set<int32_t>>> computed_;
  // By segment and position: the cut from whose hidden rows a position's K/V was predicted.
  std::map<SeqId, Phantoms> phantoms_;
  std::map<SeqId, WeightFormat> formats_;  // of the requests, whatever they draft in
  // [place, row]: the tokens up to the one whose hidden row is kept there.
  std::map<std::pair<int32_t, int32_t>, std::vector<TokenId>> features_;
  std::string complaint_;
};

}  // namespace skim
