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
  void Adopt(std::span<const PrefixIndex::NodeId> chain) {
    for (const PrefixIndex::NodeId node : chain) {
      if (Users(node)++ == 0) available_ -= cache_->pages_per_block();
    }
  }

  // Shared blocks become available with their last user.
  void Release(const KvHoldings& kv) {
    const int64_t published = static_cast<int64_t>(kv.published.size());
    available_ += kv.pages() - published * cache_->pages_per_block();
    for (const PrefixIndex::NodeId node : kv.published) {
      if (--Users(node) == 0) available_ += cache_->pages_per_block();
    }
  }

 private:
  int32_t& Users(PrefixIndex::NodeId node) {
    return users_.try_emplace(node, cache_->index().users(node)).first->second;
  }

  const KvCache* cache_;
  int64_t available_;
  std::unordered_map<PrefixIndex::NodeId, int32_t> users_;  // where it differs
};

}  // namespace skim
