// A what-if copy of the page counts, for planning: pages are taken and given back here and
// nothing happens to the cache. Copies are cheap, so a plan that does not work out is
// simply dropped.
#pragma once

#include <cstdint>
#include <span>
#include <unordered_map>

#include "scheduler/kv_cache.h"

namespace skim {

class KvScratch {
 public:
  explicit KvScratch(const KvCache& cache) : cache_(&cache), available_(cache.Available()) {}

  int64_t available() const { return available_; }
  void Take(int64_t pages) { available_ -= pages; }
  void GiveBack(int64_t pages) { available_ += pages; }

  // The pages of a chain that nobody uses stop being available.
  void Adopt(std::span<const PrefixIndex::NodeId> chain, const SharedPart& shared) {
    for (const PrefixIndex::NodeId node : chain) {
      if (Users(node)++ == 0) available_ -= Count(index().pages(node));
      if (shared.hidden && AttachedUsers(node)++ == 0) available_ -= Count(index().attached(node));
    }
  }

  // Shared blocks become available with their last user. `hidden_dropped`: DropHidden came before;
  // `draft_model_dropped`: so did DropDraftModel.
  void Release(const KvHoldings& kv, bool hidden_dropped, bool draft_model_dropped) {
    if (!hidden_dropped) DropHidden(kv);
    if (!draft_model_dropped) DropDraftModel(kv);
    available_ += kv.pages() - kv.hidden_pages() - std::ssize(kv.draft_model);
    for (const PrefixIndex::NodeId node : kv.published) {
      const int64_t pages = Count(index().pages(node));
      available_ -= pages;
      if (--Users(node) == 0) available_ += pages;
    }
  }

  // Those of its draft model alone.
  void DropDraftModel(const KvHoldings& kv) { available_ += std::ssize(kv.draft_model); }

  // Its hidden rows alone.
  void DropHidden(const KvHoldings& kv) {
    available_ += kv.hidden_pages();
    if (!kv.shared.hidden) return;
    const size_t per_block = cache_->hidden_pages_per_block();
    for (size_t block = 0; block < kv.published.size(); ++block) {
      if (kv.hidden[block * per_block] == kNoPage) continue;  // given back
      const PrefixIndex::NodeId node = kv.published[block];
      const int64_t pages = Count(index().attached(node));
      available_ -= pages;
      if (--AttachedUsers(node) == 0) available_ += pages;
    }
  }

 private:
  static int64_t Count(std::span<const PageId> pages) { return static_cast<int64_t>(pages.size()); }
  const PrefixIndex& index() const { return cache_->index(); }
  int32_t& Users(PrefixIndex::NodeId node) {
    return users_.try_emplace(node, index().users(node)).first->second;
  }
  int32_t& AttachedUsers(PrefixIndex::NodeId node) {
    return attached_users_.try_emplace(node, index().attached_users(node)).first->second;
  }

  const KvCache* cache_;
  int64_t available_;
  // Where they differ.
  std::unordered_map<PrefixIndex::NodeId, int32_t> users_, attached_users_;
};

}  // namespace skim
