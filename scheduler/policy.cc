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
        budget_(limits.max_rows_per_step) {
    std::vector<Sequence*> order(running.begin(), running.end());
    std::ranges::sort(order, [this](auto* a, auto* b) { return Before(*a, *b); });
    for (Sequence* sequence : order) running_.push_back({sequence});
  }

  Decision Plan() {
    ServeRunning([](const Sequence& s) { return s.missing() == 1; });
    ServeRunning([](const Sequence& s) { return s.missing() > 1; });
    if (decision_.preempted.empty()) Admit();
    for (const Entry& entry : running_) {
      if (entry.rows > 0) decision_.slices.push_back({entry.sequence, entry.rows});
    }
    if (decision_.slices.empty()) decision_.failed = blocked_;
    return std::move(decision_);
  }

 private:
  struct Entry {
    Sequence* sequence;
    int32_t rows = 0;           // planned
    int64_t planned_pages = 0;  // beyond those held
    bool preempted = false;
  };

  bool Before(const Sequence& a, const Sequence& b) const {
    const auto key = [this](const Sequence& s) {
      return std::tuple(-int64_t{s.request.priority}, served_[s.tenant], s.arrival);
    };
    return key(a) < key(b);
  }

  int64_t HeldPages(const Sequence& s) const {
    return int64_t{s.kv.blocks} * cache_.pages_per_block();
  }

  template <typename Phase>
  void ServeRunning(Phase phase) {
    for (size_t i = 0; i < running_.size() && budget_ > 0; ++i) {
      Entry& entry = running_[i];
      const Sequence& sequence = *entry.sequence;
      if (entry.preempted || !sequence.schedulable() || !phase(sequence)) continue;
      const int32_t rows = std::min(sequence.missing(), budget_);
      const int64_t pages = cache_.PagesFor(sequence.computed + rows) - HeldPages(sequence);
      if (!MakeRoomForRunning(i, pages)) {
        if (blocked_ == nullptr || Before(sequence, *blocked_)) blocked_ = entry.sequence;
        continue;
      }
      scratch_.Take(pages);
      entry.planned_pages = pages;
      entry.rows = rows;
      budget_ -= rows;
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

  bool MakeRoomForRunning(size_t index, int64_t pages) {
    if (scratch_.available() >= pages) return true;
    KvScratch trial = scratch_;
    std::vector<size_t> chosen;
    for (const size_t victim : Victims(index)) {
      trial.Release(running_[victim].sequence->kv);
      trial.GiveBack(running_[victim].planned_pages);
      chosen.push_back(victim);
      if (trial.available() < pages) continue;
      Preempt(chosen, std::move(trial));
      return true;
    }
    return false;
  }

  void Preempt(const std::vector<size_t>& chosen, KvScratch after) {
    scratch_ = std::move(after);
    for (const size_t victim : chosen) {
      Entry& entry = running_[victim];
      budget_ += std::exchange(entry.rows, 0);
      entry.planned_pages = 0;
      entry.preempted = true;
      decision_.preempted.push_back(entry.sequence);
    }
  }

  // Pages that running sequences need for what they know but have not computed.
  int64_t OutstandingPages() const {
    int64_t pages = 0;
    for (const Entry& entry : running_) {
      const Sequence& s = *entry.sequence;
      if (entry.preempted || s.paused()) continue;
      pages += cache_.PagesFor(s.total()) - HeldPages(s) - entry.planned_pages;
    }
    return pages;
  }

  void Admit() {
    int64_t reserved = OutstandingPages();
    auto occupied = static_cast<int32_t>(running_.size());
    while (budget_ > 0) {
      const auto best = NextWaiting();
      if (best == waiting_.end()) return;
      Sequence* candidate = *best;
      Decision::Admission admission{candidate, {}};
      if (candidate->may_hit()) {
        admission.hits = cache_.Match(candidate->domain(), candidate->tokens);
      }
      if (!MakeRoomForWaiting(*candidate, admission.hits, reserved, &occupied)) {
        if (blocked_ == nullptr) blocked_ = candidate;
        return;
      }
      waiting_.erase(best);
      const auto hits = static_cast<int32_t>(admission.hits.size());
      const int32_t computed = hits * cache_.page_tokens();
      const int32_t rows = std::min(candidate->total() - computed, budget_);
      const int64_t held = int64_t{hits} * cache_.pages_per_block();
      const int64_t pages = cache_.PagesFor(computed + rows) - held;
      scratch_.Adopt(admission.hits);
      scratch_.Take(pages);
      reserved += cache_.PagesFor(candidate->total()) - held - pages;
      budget_ -= rows;
      ++occupied;
      // Counts at once, so that one tenant cannot fill a step by arriving first.
      served_[candidate->tenant] += rows;
      running_.push_back({candidate, rows, pages});
      decision_.admitted.push_back(std::move(admission));
    }
  }

  std::vector<Sequence*>::iterator NextWaiting() {
    auto best = waiting_.end();
    for (auto it = waiting_.begin(); it != waiting_.end(); ++it) {
      if (!(*it)->schedulable()) continue;
      if (best == waiting_.end() || Before(**it, **best)) best = it;
    }
    return best;
  }

  bool MakeRoomForWaiting(const Sequence& candidate, std::span<const PrefixIndex::NodeId> hits,
                          int64_t reserved, int32_t* occupied) {
    const int64_t pages = cache_.PagesFor(candidate.total()) -
                          static_cast<int64_t>(hits.size()) * cache_.pages_per_block() + reserved;
    const auto fits = [&](const KvScratch& state) {
      KvScratch with = state;
      with.Adopt(hits);
      return with.available() >= pages;
    };
    if (*occupied < limits_.max_running && fits(scratch_)) return true;
    KvScratch trial = scratch_;
    std::vector<size_t> chosen;
    for (const size_t victim : PausedVictims(running_.size())) {
      trial.Release(running_[victim].sequence->kv);
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
  int32_t budget_;               // rows left
  Sequence* blocked_ = nullptr;  // the first that found no room
  Decision decision_;
};

}  // namespace

Decision Decide(const PolicyLimits& limits, const KvCache& cache,
                std::span<Sequence* const> running, std::span<Sequence* const> waiting,
                std::span<const int64_t> served) {
  return Planner(limits, cache, running, waiting, served).Plan();
}

}  // namespace skim
