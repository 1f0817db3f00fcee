// How far a pruned sequence has come: which of its tokens have K/V in which layers, in which
// slots, and whose hidden state is kept.
//
// The cuts of a sequence divide the layers into stages. In the prefill a stage runs all the
// tokens that the cut below it kept, in tiles; the scores of the prompt's last rows then
// choose who runs the next stage. One number per prompt token says it all: depth(t), the
// number of stages whose K/V exists. It never decreases, so each (token, layer) is computed at
// most once. Slots of stage s = tokens of depth > s; hidden rows = prompt tokens of depth < S.
// Generated tokens run all layers in one step.
//
// Stage 0 depends on nothing but the tokens before, so its K/V and the hidden rows at its end
// (depth 1, in the page that the position names) can be taken from the prefix cache and given to
// it; the rows of depth 2 and more lie in pages of their own, in the order of arrival there.
//
// Where what is cut is seen all the same (phantoms), each stage has a slot for every token, in
// order: with the tokens of a tile come those between them that were cut, whose K/V is predicted
// from the hidden rows with which they stopped. Depth and all that follows from it is that of
// computed K/V; the hidden rows are kept until the prompt is done. Decoding late, they are kept
// longer: whom a token's scores find, the next step runs from there to the last layer beside the
// next token, in the phantom's slots. The first of these steps may stand before the first token
// is drawn: the prompt's last token looks back, and runs once more beside whom it has found.
//
// At a boundary that has scouts, the choice is made between two stages: the last tokens of the
// stage below run ahead, alone, over predicted K/V of all others in slots that are given back after
// the step. Then everybody who is chosen, they too, runs the stage above as after any cut. Decoding
// chooses at the cuts above those alone, as nobody scores there; late, the scouts' heads score for
// each new token.
//
// After a preemption the same tokens take the same slots: the kept sets are saved, and what
// decoding revives is a function of the sequence alone. Loop thread only.
#pragma once

#include <algorithm>
#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "engine/step_plan.h"
#include "scheduler/kv_cache.h"
#include "scheduler/prefill_policy.h"

namespace skim {

class LazyProgress {
 public:
  // Steps of the prompt's last token behind the last stage, if it looks back: to look, and to see
  // what it has found.
  static constexpr int32_t kLooks = 2;

  // `policy` has a share per boundary, none above the one before and at least one below 1, and
  // outlives this.
  LazyProgress(const KvGeometry& geometry, const PrefillPolicy& policy, int32_t prompt_tokens);

  int32_t stages() const { return static_cast<int32_t>(stages_.size()); }
  bool prompt_done() const { return stage_ == stages() && looks_left_ == 0; }
  bool revives() const { return hidden_kept_ && MayRevive(); }
  // All stages have run; the next tile is the prompt's last token once more, beside whom it found.
  bool looking_back() const { return stage_ == stages() && looks_left_ > 0; }
  // The next tile is that of scouts.
  bool scouting() const { return stage_ > 0 && stage_ < stages() && kept_[stage_].empty(); }

  // --- prefix cache ---
  // What of the blocks is shared, and the layer below which their K/V is.
  SharedPart shared() const { return {stages_[0].end_segment, /*hidden=*/true}; }
  int32_t shared_layers() const { return stages_[0].end_layer; }
  // Tokens that have run stage 0, from the first on, and will not run it again.
  int32_t shareable() const {
    return std::min(in_order_, prompt_tokens_ - (policy_.looks_back() ? 1 : 0));
  }
  // The rows that score are always computed, and so is one at least.
  int32_t least_computed() const { return std::max(1, policy_.rules.window); }
  // The first `tokens` have come from the cache. Before anything has run.
  void TakeCached(int32_t tokens);

  // --- prefill: the next tile, `cached` tokens being about to be taken from the cache ---
  // Rows of it, at most `most` and of at most `budget` token-layers; 0 if so few make no tile (the
  // rows that score stay together). Phantoms count only as far as a smaller tile has fewer, and a
  // tile of scouts whatever it costs: nobody may wait for ever for a step that is idle enough.
  int32_t TileRows(int32_t most, int64_t budget, int32_t cached = 0) const;
  // Token-layers that rows cost, phantoms among them included.
  int64_t TileCost(int32_t rows) const;
  KvExtent AfterTile(int32_t rows, int32_t cached = 0) const;
  bool EndsPrompt(int32_t rows) const {
    if (policy_.looks_back()) return looks_left_ == 1;
    return stage_ + 1 == stages() && !scouting() && done_ + rows == stages_[stage_].run_tokens;
  }
  // Fills in what `rows` rows are; appends them to the plan.
  void AddTile(int32_t rows, PlanSequence* entry, StepPlan* plan) const;

  // --- decoding: rows at the positions from `position` on ---
  // Rows that can run in one step, at most `most`: one where each step chooses anew.
  int32_t DecodeRows(int32_t most) const { return Chooses() ? 1 : most; }
  // Beside those of the next step, tile or not.
  int32_t ReservedRows() const;
  KvExtent AfterDecode(int32_t position, int32_t rows) const;
  void AddDecode(int32_t position, int32_t rows, PlanSequence* entry, StepPlan* plan) const;

  // What the sequence holds once all `total` known tokens, of which `computed` are, have run.
  KvExtent CaughtUp(int32_t total, int32_t computed) const;

  // --- after the step ---
  // INTERNAL if the engine did not choose as it was told to. Either may make hidden rows
  // useless: see TakeUselessHidden.
  absl::Status CommitTile(int32_t rows, std::span<const CutResult> cuts);
  absl::Status CommitDecode(int32_t position, int32_t rows, std::span<const CutResult> cuts);
  // Of what no token needs any more, each told once.
  struct UselessHidden {
    bool all = false;
    std::vector<int32_t> blocks;  // the hidden pages of these
    std::vector<int32_t> deep_pages;
  };
  UselessHidden TakeUselessHidden() { return std::exchange(useless_, {}); }

  // Under pressure, once nothing that was delivered depends on it (`missing` known tokens
  // lack K/V): revival ends for good, and all hidden rows are useless.
  bool CanDropHidden(int32_t missing) const { return prompt_done() && revives() && missing <= 1; }
  void DropHidden(int32_t position);
  // All K/V and hidden rows are gone; the choices stay.
  void Restart();

  // --- report ---
  // The first stage that decoding chooses for: who is cut below it stays cut.
  int32_t choosing_from() const { return choosing_from_; }
  int32_t depth(int32_t position) const { return depth_[position]; }
  std::span<const int32_t> slots(int32_t stage) const { return slots_[stage]; }
  // Prompt tokens that were computed in each segment of the model.
  std::vector<int32_t> SegmentTokens() const;
  // Prompt tokens whose K/V was predicted in some layers.
  int32_t predicted() const { return phantoms() ? prompt_tokens_ - kept() : 0; }
  int32_t kept() const;  // prompt tokens that the prefill ran through all layers
  int32_t revived() const { return revived_; }  // stages that revived tokens ran
  int32_t hidden_rows() const;
  int64_t token_layers() const;  // of the prompt, whose K/V exist
  // Run ahead or once more, beside those.
  int64_t extra_token_layers() const { return extra_token_layers_; }
  bool dropped_hidden() const { return dropped_at_ >= 0; }

 private:
  struct Stage {
    int16_t first_layer, end_layer;
    int32_t first_segment, end_segment;
    float keep;          // share of the tokens that run it
    int32_t run_tokens;  // of the prompt
    ScoutGeometry scouts = {};      // who choose those, if any do
    int32_t scout_end_segment = 0;  // they run segments below this one
  };

  bool MayRevive() const { return Revives(policy_.decode) && choosing_from_ < stages(); }
  bool Chooses() const;
  bool phantoms() const { return SeesPhantoms(policy_.decode); }
  bool late() const { return policy_.decode == DecodeMode::kLate; }
  // Tokens that the next step's scores may bring back, at each cut.
  int32_t Budget() const {
    return looks_left_ == kLooks ? policy_.look_back : policy_.revival_budget;
  }
  // As TileRows, by the rows alone.
  int32_t RowsOfTile(int32_t most, int32_t cached) const;
  // Prompt tokens that run stage `stage`, in order.
  int32_t Token(int32_t stage, int32_t i) const { return stage == 0 ? i : kept_[stage][i]; }
  // The first tokens run ahead with the scouts, as they see nobody else and nothing predicts them.
  int32_t ScoutSinks() const;
  int32_t ScoutRows() const;
  // Raises `extent` to what the scouts of this stage need.
  void AddScouts(int32_t stage, KvExtent* extent) const;
  // Of this stage: positions up to that of its so many-th token, 0 for none.
  int32_t Reach(int32_t tokens) const;
  // Tokens to choose of `length` for stage `stage`.
  int32_t Choice(int32_t stage, int32_t length) const;
  std::vector<int32_t> Reserves() const;  // [stages] tokens that may be revived into each
  bool Cuts(int32_t stage, const std::vector<int32_t>& reserves) const {
    return !late() || reserves[stage] > 0;
  }
  absl::Status TakeRevived(const CutResult& cut, int32_t stage, int32_t most);
  void RunRevived();
  // Of those that the next step runs, how many are of this depth.
  int32_t ComingFrom(int32_t depth) const;
  // With so many rows of depth 1 and of more.
  KvExtent Extent(const std::vector<int32_t>& stage_slots, int32_t hidden_rows,
                  int32_t deep_rows) const;
  bool HasDeepRows() const { return stages() > 2; }
  void FillEntry(PlanSequence* entry) const;
  // Of the positions [begin, end) but `run`, in layers from this stage's first to end_layer.
  void AddPhantoms(int32_t begin, int32_t end, std::span<const int32_t> run, int16_t end_layer,
                   PlanSequence* entry) const;
  void AddScoutTile(PlanSequence* entry, StepPlan* plan) const;
  absl::Status TakeChoice(int32_t stage, const CutResult& cut);
  void EndPrompt();
  void Deepen(int32_t position);
  void ForgetHidden();
  void ForgetUnrevivable();

  const KvGeometry& geometry_;
  const PrefillPolicy& policy_;
  const int32_t prompt_tokens_;
  std::vector<Stage> stages_;
  int32_t choosing_from_ = 1;  // the first stage above all that scouts choose for

  int32_t stage_ = 0;                        // of the prefill
  int32_t looks_left_ = 0;
  int32_t done_ = 0;                         // tokens that have run it
  int32_t in_order_ = 0;                     // slots in use in stage 0: slot i holds position i
  std::vector<std::vector<int32_t>> kept_;   // [stages] who runs it; [0]: everybody, not listed
  std::vector<std::vector<int32_t>> slots_;  // [stages] positions by slot; [0]: not listed
  std::vector<uint8_t> depth_;               // [prompt tokens]
  std::vector<int32_t> coming_;              // revived late, and run by the next step; ascending
  std::vector<int32_t> at_depth_;            // [stages + 1] prompt tokens of each depth
  int32_t cached_ = 0;                       // tokens that stage 0 got from the cache
  bool hidden_kept_ = true;
  std::vector<int32_t> hidden_live_;  // [blocks] tokens of depth 0 or 1
  std::vector<int32_t> deep_index_;   // [prompt tokens] of the row there, from depth 2 on
  int32_t deep_rows_ = 0;             // that have an index
  int32_t deep_rows_before_ = 0;      // when it was preempted
  std::vector<int32_t> deep_live_;    // [deep pages] rows that are needed, or not yet taken
  UselessHidden useless_;
  int32_t dropped_at_ = -1;            // position from which on nothing is revived
  std::vector<int32_t> slots_before_;  // [stages] when it was preempted
  int32_t revived_ = 0;
  int64_t extra_token_layers_ = 0;
};

}  // namespace skim
