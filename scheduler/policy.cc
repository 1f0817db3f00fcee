#include "scheduler/policy.h"

#include <algorithm>
#include <tuple>
#include <utility>

#include "scheduler/kv_scratch.h"

namespace skim {
namespace {

class Planner {
 public:
  Planner(const PolicyLimits& limits, const KvCache& cache, std::span<Sequence* const> running,
          std::span<Sequence* const> waiting, std::span<const int64_t> served)
      : limits_(limits),
        cache_(cache),
        waiting_(waiting.begin(), waiting.end()),
        served_(served.begin(), served.end()),
        scratch_(cache),
        budget_(int64_t{limits.max_rows_per_step} * limits.layers),
        rows_left_(limits.max_rows),
        revival_rows_left_(limits.max_revival_rows),
        first_pass_rows_left_(limits.max_rows) {
    std::vector<Sequence*> order(running.begin(), running.end());
    std::ranges::sort(order, [this](auto* a, auto* b) { return Before(*a, *b); });
    for (Sequence* sequence : order) running_.push_back({sequence});
  }

  Decision Plan() {
    ServeRunning([](const Sequence& s) { return s.decoding() && !s.lazy; });
    ServePrunedDecodes();
    ServeDrafts();
    const bool decoding =
        std::ranges::any_of(running_, [](const Entry& entry) { return entry.work.rows > 0; });
    const int64_t held_back =
        decoding ? std::max<int64_t>(0, budget_ - limits_.prefill_budget) : 0;
    budget_ -= held_back;
    ServePrompts();
    if (held_back > 0 && PrefillTokenLayers() == 0) {
      budget_ += held_back;
      ServePrompts();
    }
    decision_.prefill_token_layers = PrefillTokenLayers();
    ServeCatchUps();
    for (Entry& entry : running_) {
      if (entry.draft_model_dropped) decision_.draft_models_dropped.push_back(entry.sequence);
      if (entry.hidden_dropped) decision_.hidden_dropped.push_back(entry.sequence);
      Work& work = entry.work;
      if (work.rows == 0) continue;
      decision_.slices.push_back(
          {entry.sequence, work.rows, work.drafts, work.catch_up, std::move(work.extent)});
    }
    if (decision_.slices.empty()) decision_.failed = blocked_;
    return std::move(decision_);
  }

 private:
  // What a sequence does in this step.
  struct Work {
    int32_t rows = 0;
    int32_t drafts = 0;  // rows beside those
    int32_t catch_up = 0;  // of the draft model, beside all of them
    int64_t token_layers = 0;
    int32_t reserved_rows = 0;
    KvExtent extent;
  };
  struct Entry {
    Sequence* sequence;
    Work work = {};
    int64_t planned_pages = 0;  // beyond those held
    bool preempted = false;
    bool hidden_dropped = false;
    bool draft_model_dropped = false;
  };

  bool Before(const Sequence& a, const Sequence& b) const {
    const auto key = [this](const Sequence& s) {
      return std::tuple(-int64_t{s.request.priority}, served_[s.tenant], s.arrival);
    };
    return key(a) < key(b);
  }

  // Of a sequence that has `computed` of its tokens, as much as the budget allows.
  Work NextWork(const Sequence& s, int32_t computed) const {
    const auto at_most = [this](int64_t layers) {
      return static_cast<int32_t>(std::min<int64_t>(rows_left_, budget_ / layers));
    };
    Work work;
    const int64_t layers = limits_.layers;
    if (s.lazy) work.reserved_rows = s.lazy->ReservedRows();
    if (work.reserved_rows > revival_rows_left_) return Work();
    if (s.lazy && !s.lazy->prompt_done()) {
      work.rows = s.lazy->TileRows(rows_left_, budget_, computed);
      work.extent = s.lazy->AfterTile(work.rows, computed);
      work.token_layers = s.lazy->TileCost(work.rows);
      return work;
    }
    if (!s.lazy) {
      work.rows = std::min(s.total() - computed, at_most(layers));
      work.extent = cache_.FullExtent(computed + work.rows);
    } else {
      work.rows = s.lazy->DecodeRows(std::min(s.total() - computed, at_most(layers)));
      if (at_most(layers) < 1) work.rows = 0;
      work.extent = s.lazy->AfterDecode(computed, work.rows);
    }
    work.token_layers = work.rows * layers;
    return work;
  }

  void Spend(const Work& work, int sign) {
    budget_ -= sign * work.token_layers;
    rows_left_ -= sign * (work.rows + work.drafts);
    revival_rows_left_ -= sign * work.reserved_rows;
  }

  bool exhausted() const { return budget_ <= 0 || rows_left_ <= 0; }

  template <typename Phase>
  void ServeRunning(Phase phase) {
    for (size_t i = 0; i < running_.size() && !exhausted(); ++i) {
      if (phase(*running_[i].sequence)) Serve(i);
    }
  }

  void ServePrompts() {
    ServeRunning([](const Sequence& s) { return s.prefilling(); });
    if (decision_.preempted.empty()) Admit();
  }

  int64_t PrefillTokenLayers() const {
    int64_t sum = 0;
    for (const Entry& entry : running_) {
      if (entry.sequence->prefilling()) sum += entry.work.token_layers;
    }
    return sum;
  }

  // Who ran least recently goes first: the reserved rows may not suffice for all.
  void ServePrunedDecodes() {
    std::vector<size_t> order;
    for (size_t i = 0; i < running_.size(); ++i) {
      const Sequence& sequence = *running_[i].sequence;
      if (sequence.lazy && !sequence.prefilling()) order.push_back(i);
    }
    std::ranges::stable_sort(order, {}, [this](size_t i) { return running_[i].sequence->last_step; });
    for (const size_t i : order) {
      if (!exhausted()) Serve(i);
    }
  }

  void Serve(size_t index) {
    const Sequence& sequence = *running_[index].sequence;
    if (running_[index].preempted || !sequence.schedulable()) return;
    Work work = NextWork(sequence, sequence.computed);
    if (work.rows == 0) return;
    const int64_t pages = cache_.Missing(work.extent, sequence.kv);
    if (!MakeRoomForRunning(index, pages)) {
      if (blocked_ == nullptr || Before(sequence, *blocked_)) blocked_ = running_[index].sequence;
      short_of_pages_ = true;
      return;
    }
    Entry& entry = running_[index];
    scratch_.Take(pages);
    entry.planned_pages = pages;
    if (entry.hidden_dropped) work.reserved_rows = 0;
    entry.work = std::move(work);
    Spend(entry.work, 1);
  }

  // In order, as many as fit. Of the pages left, those that others' known tokens wait for are
  // no drafts': so drafts preempt nobody, now or later.
  void ServeDrafts() {
    int64_t spare = scratch_.available() - OutstandingPages();
    for (Entry& entry : running_) {
      const Sequence& s = *entry.sequence;
      if (entry.work.rows == 0 || !s.decoding()) continue;
      const bool by_model = s.wants_draft_model();
      const int32_t first_rows = by_model ? s.speculation->first_pass_rows() : 0;
      if (by_model && (entry.draft_model_dropped || first_rows > first_pass_rows_left_)) continue;
      const int64_t rows = std::min<int64_t>(rows_left_, budget_ / limits_.layers);
      for (auto drafts = static_cast<int32_t>(std::min<int64_t>(s.wanted_drafts(), rows));
           drafts > 0; --drafts) {
        KvExtent extent = s.VerifyExtent(cache_, drafts);
        const int64_t pages = cache_.Missing(extent, s.kv) - entry.planned_pages;
        if (pages > spare) continue;
        spare -= pages;
        scratch_.Take(pages);
        entry.planned_pages += pages;
        Spend(entry.work, -1);
        entry.work.drafts = drafts;
        entry.work.token_layers += int64_t{drafts} * limits_.layers;
        entry.work.extent = std::move(extent);
        Spend(entry.work, 1);
        first_pass_rows_left_ -= first_rows;
        break;
      }
    }
  }

  // In order. Who waits for pages would only take them back. Rows count as those of prompts do:
  // they delay who decodes.
  void ServeCatchUps() {
    if (short_of_pages_ || !decision_.preempted.empty()) return;
    int64_t spare = scratch_.available() - OutstandingPages();
    budget_ = std::min(budget_, limits_.prefill_budget - decision_.prefill_token_layers);
    for (Entry& entry : running_) {
      const Sequence& s = *entry.sequence;
      if (entry.work.rows == 0 || entry.draft_model_dropped || !s.speculation) continue;
      const int64_t affordable =
          std::min<int64_t>(rows_left_, budget_ / limits_.draft_model_row_layers);
      const auto rows =
          static_cast<int32_t>(std::min<int64_t>(s.speculation->catch_up(), affordable));
      if (rows <= 0) continue;
      KvExtent extent = entry.work.extent;
      extent.draft_slots = s.speculation->draft_model_computed() + rows;
      const int64_t pages = cache_.Missing(extent, s.kv) - entry.planned_pages;
      if (pages > spare) continue;
      spare -= pages;
      scratch_.Take(pages);
      entry.planned_pages += pages;
      entry.work.catch_up = rows;
      entry.work.extent = std::move(extent);
      const int64_t token_layers = int64_t{rows} * limits_.draft_model_row_layers;
      decision_.prefill_token_layers += token_layers;
      budget_ -= token_layers;
      rows_left_ -= rows;
    }
  }

  // The sequences that can be preempted for running_[index], in this order.
  std::vector<size_t> Victims(size_t index) const {
    std::vector<size_t> victims = PausedVictims(index);
    for (size_t i = running_.size() - 1; i > index; --i) {
      if (!running_[i].preempted && !running_[i].sequence->paused()) victims.push_back(i);
    }
    return victims;
  }

  std::vector<size_t> PausedVictims(size_t except) const {
    std::vector<size_t> victims;
    for (size_t i = running_.size(); i-- > 0;) {
      const Entry& entry = running_[i];
      if (i != except && !entry.preempted && entry.sequence->paused()) victims.push_back(i);
    }
    return victims;
  }

  // Takes the pages of draft models, those of paused sequences first, then the last first, while
  // `enough` is not true. Nobody is told anything else for it.
  template <typename Enough>
  void TakeFromDraftModels(Enough enough) {
    for (const bool paused : {true, false}) {
      for (size_t i = running_.size(); i-- > 0;) {
        Entry& entry = running_[i];
        const Sequence& s = *entry.sequence;
        const bool holds = !s.kv.draft_model.empty() || entry.work.extent.draft_slots > 0;
        if (s.paused() != paused || entry.preempted || entry.draft_model_dropped || !holds)
          continue;
        if (enough()) return;
        DropDraftModel(&entry);
      }
    }
  }

  void DropDraftModel(Entry* entry) {
    const Sequence& s = *entry->sequence;
    entry->draft_model_dropped = true;
    scratch_.DropDraftModel(s.kv);
    Work& work = entry->work;
    if (work.extent.draft_slots == 0) return;
    Spend(work, -1);
    work.token_layers -= int64_t{work.drafts} * limits_.layers;
    work.drafts = 0;
    work.extent = s.VerifyExtent(cache_, 0);
    Spend(work, 1);
    const int64_t pages = cache_.Missing(work.extent, s.kv);
    scratch_.GiveBack(entry->planned_pages - pages);
    entry->planned_pages = pages;
  }

  // The pruned sequences whose hidden rows can be dropped, last first.
  std::vector<size_t> HiddenVictims() const {
    std::vector<size_t> victims;
    for (size_t i = running_.size(); i-- > 0;) {
      const Entry& entry = running_[i];
      const Sequence& s = *entry.sequence;
      if (entry.preempted || entry.hidden_dropped || !s.lazy) continue;
      if (s.lazy->CanDropHidden(s.missing())) victims.push_back(i);
    }
    return victims;
  }

  bool MakeRoomForRunning(size_t index, int64_t pages) {
    const auto fits = [&] { return scratch_.available() >= pages; };
    TakeFromDraftModels(fits);
    if (fits()) return true;
    KvScratch trial = scratch_;
    std::vector<size_t> dropped;
    for (const size_t victim : HiddenVictims()) {
      if (trial.available() >= pages) break;
      trial.DropHidden(running_[victim].sequence->kv);
      dropped.push_back(victim);
    }
    std::vector<size_t> preempted;
    if (trial.available() < pages) {
      for (const size_t victim : Victims(index)) {
        const Entry& entry = running_[victim];
        // Whoever goes altogether need not go without revival as well.
        const bool dropped_now = std::erase(dropped, victim) > 0;
        trial.Release(entry.sequence->kv, entry.hidden_dropped || dropped_now,
                      entry.draft_model_dropped);
        trial.GiveBack(entry.planned_pages);
        preempted.push_back(victim);
        if (trial.available() >= pages) break;
      }
    }
    if (trial.available() < pages) return false;
    for (const size_t victim : dropped) {
      Entry& entry = running_[victim];
      entry.hidden_dropped = true;
      revival_rows_left_ += std::exchange(entry.work.reserved_rows, 0);
    }
    Preempt(preempted, std::move(trial));
    return true;
  }

  void Preempt(const std::vector<size_t>& chosen, KvScratch after) {
    scratch_ = std::move(after);
    for (const size_t victim : chosen) {
      Entry& entry = running_[victim];
      Spend(std::exchange(entry.work, {}), -1);
      entry.planned_pages = 0;
      entry.preempted = true;
      entry.hidden_dropped = entry.draft_model_dropped = false;
      decision_.preempted.push_back(entry.sequence);
    }
  }

  // Pages that running sequences need for what they know but have not computed.
  int64_t OutstandingPages() const {
    int64_t pages = 0;
    for (const Entry& entry : running_) {
      const Sequence& s = *entry.sequence;
      if (entry.preempted || s.paused()) continue;
      const KvExtent extent = s.lazy ? s.lazy->CaughtUp(s.total(), s.computed)
                                     : cache_.FullExtent(s.total());
      pages += std::max<int64_t>(0, cache_.Missing(extent, s.kv) - entry.planned_pages);
    }
    return pages;
  }

  void Admit() {
    int64_t reserved = OutstandingPages();
    auto occupied = static_cast<int32_t>(running_.size());
    while (!exhausted()) {
      const auto best = NextWaiting();
      if (best == waiting_.end()) return;
      Sequence* candidate = *best;
      Decision::Admission admission{candidate, {}};
      SharedPart shared = cache_.WholeBlocks();
      if (candidate->may_hit()) {
        admission.hits = cache_.Match(candidate->domain(), shared, candidate->tokens);
      }
      // A hit at full depth is worth more than pruning if it leaves little.
      admission.exact = candidate->lazy != nullptr && candidate->WorthHitting(HitTokens(admission));
      const bool lazy = candidate->lazy != nullptr && !admission.exact;
      if (lazy) {
        const LazyProgress& progress = *candidate->lazy;
        shared = progress.shared();
        const auto prompt = std::span(candidate->tokens).first(candidate->prompt_tokens());
        admission.hits = cache_.Match(candidate->domain(progress.shared_layers()), shared, prompt,
                                      progress.least_computed());
      }
      const int32_t computed = HitTokens(admission);
      const int64_t hit_pages = cache_.PagesOf(admission.hits, shared);
      const KvExtent all =
          lazy ? candidate->lazy->CaughtUp(candidate->total(), 0) : cache_.FullExtent(candidate->total());
      const int64_t needed = cache_.PagesFor(all) - hit_pages;
      Work work = FirstWork(*candidate, lazy, computed);
      if (work.rows == 0) return;
      if (!MakeRoomForWaiting(needed, admission.hits, shared, reserved, &occupied)) {
        if (blocked_ == nullptr) blocked_ = candidate;
        short_of_pages_ |= occupied < limits_.max_running;
        return;
      }
      waiting_.erase(best);
      const int64_t pages = cache_.PagesFor(work.extent) - hit_pages;
      scratch_.Adopt(admission.hits, shared);
      scratch_.Take(pages);
      reserved += needed - pages;
      Spend(work, 1);
      ++occupied;
      // Counts at once, so that one tenant cannot fill a step by arriving first.
      served_[candidate->tenant] += work.rows;
      running_.push_back({candidate, std::move(work), pages});
      decision_.admitted.push_back(std::move(admission));
    }
  }

  int32_t HitTokens(const Decision::Admission& admission) const {
    return static_cast<int32_t>(admission.hits.size()) * cache_.page_tokens();
  }

  Work FirstWork(const Sequence& candidate, bool lazy, int32_t computed) const {
    if (lazy || !candidate.lazy) return NextWork(candidate, computed);
    Work work;
    work.rows = static_cast<int32_t>(std::min<int64_t>(
        {candidate.total() - computed, rows_left_, budget_ / limits_.layers}));
    work.token_layers = int64_t{work.rows} * limits_.layers;
    work.extent = cache_.FullExtent(computed + work.rows);
    return work;
  }

  std::vector<Sequence*>::iterator NextWaiting() {
    auto best = waiting_.end();
    for (auto it = waiting_.begin(); it != waiting_.end(); ++it) {
      if (!(*it)->schedulable()) continue;
      if (best == waiting_.end() || Before(**it, **best)) best = it;
    }
    return best;
  }

  bool MakeRoomForWaiting(int64_t needed, std::span<const PrefixIndex::NodeId> hits,
                          const SharedPart& shared, int64_t reserved, int32_t* occupied) {
    const int64_t pages = needed + reserved;
    const auto fits = [&](const KvScratch& state) {
      KvScratch with = state;
      with.Adopt(hits, shared);
      return with.available() >= pages;
    };
    if (*occupied < limits_.max_running) {
      TakeFromDraftModels([&] { return fits(scratch_); });
      if (fits(scratch_)) return true;
    }
    KvScratch trial = scratch_;
    std::vector<size_t> chosen;
    for (const size_t victim : PausedVictims(running_.size())) {
      trial.Release(running_[victim].sequence->kv, running_[victim].hidden_dropped,
                    running_[victim].draft_model_dropped);
      chosen.push_back(victim);
      const int32_t left = *occupied - static_cast<int32_t>(chosen.size());
      if (left >= limits_.max_running || !fits(trial)) continue;
      Preempt(chosen, std::move(trial));
      *occupied = left;
      return true;
    }
    return false;
  }

  const PolicyLimits limits_;
  const KvCache& cache_;
  std::vector<Entry> running_;  // in order; what is admitted follows
  std::vector<Sequence*> waiting_;
  std::vector<int64_t> served_;
  KvScratch scratch_;
  int64_t budget_;               // token-layers left
  int32_t rows_left_;
  int32_t revival_rows_left_;
  int32_t first_pass_rows_left_;  // of draft models
  Sequence* blocked_ = nullptr;  // the first that found no room
  bool short_of_pages_ = false;
  Decision decision_;
};

}  // namespace

Decision Decide(const PolicyLimits& limits, const KvCache& cache,
                std::span<Sequence* const> running, std::span<Sequence* const> waiting,
                std::span<const int64_t> served) {
  return Planner(limits, cache, running, waiting, served).Plan();
}

}  // namespace skim
