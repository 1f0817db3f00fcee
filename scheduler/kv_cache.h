// KV pages as sequences see them: blocks grown, shared through the prefix cache, published
// and given back. Joins KvLedger (counts) and PrefixIndex (content). Loop thread only.
#pragma once

#include <algorithm>
#include <cstdint>
#include <span>
#include <vector>

#include "base/types.h"
#include "engine/step_plan.h"
#include "scheduler/kv_ledger.h"
#include "scheduler/prefix_index.h"

namespace skim {

// One segment's pages of one sequence: entry block * units + unit.
struct KvSpan {
  std::vector<PageId> pages;
};

// How far a sequence's memory reaches.
struct KvExtent {
  std::vector<int32_t> slots;  // per segment
  int32_t hidden_pages = 0;    // of the HiddenStore, from its first position on
};

// What one sequence holds. The first published.size() blocks are nodes of the prefix index,
// possibly shared and never written again; the blocks behind them are this sequence's alone.
struct KvHoldings {
  std::vector<KvSpan> segments;
  std::vector<PrefixIndex::NodeId> published;
  int32_t blocks = 0;       // of the first segment; of all, unless the sequence is pruned
  bool publishable = true;  // false once a hash collision broke the chain
  std::vector<PageId> hidden;  // pages of the HiddenStore, kNoPage where given back

  int64_t hidden_pages() const {
    return std::ranges::count_if(hidden, [](PageId page) { return page != kNoPage; });
  }
  int64_t pages() const {
    int64_t sum = hidden_pages();
    for (const KvSpan& span : segments) sum += static_cast<int64_t>(span.pages.size());
    return sum;
  }
};

class KvCache {
 public:
  KvCache(const KvGeometry& geometry, bool share_prefixes,
          PrefixIndex::Hash hash = &PrefixIndex::HashBlock);

  const KvLedger& ledger() const { return ledger_; }
  const PrefixIndex& index() const { return index_; }
  int32_t page_tokens() const { return geometry_.page_tokens; }
  int32_t pages_per_block() const { return pages_per_block_; }
  // Pages that a new owner could get, evicting what nobody uses.
  int32_t Available() const { return ledger_.free() + ledger_.cached(); }
  int64_t BlocksFor(int64_t tokens) const;  // blocks that hold so many tokens
  int64_t PagesFor(int64_t tokens) const { return BlocksFor(tokens) * pages_per_block_; }

  // The longest cached chain of full blocks that leaves at least one token to compute:
  // without it there would be no logits. Empty if prefixes are not shared.
  std::vector<PrefixIndex::NodeId> Match(const CacheDomain& domain,
                                         std::span<const TokenId> tokens) const;

  // Makes the chain the beginning of empty holdings.
  void Adopt(std::span<const PrefixIndex::NodeId> chain, KvHoldings* kv);
  // Of a sequence that has `tokens` tokens in every segment.
  KvExtent FullExtent(int64_t tokens) const;
  int64_t PagesFor(const KvExtent& extent) const;
  // Pages that holdings lack to reach so far.
  int64_t Missing(const KvExtent& extent, const KvHoldings& kv) const;
  // Extends the holdings, evicting the oldest unused content for it. Requires Available() to
  // suffice.
  void Grow(const KvExtent& extent, KvHoldings* kv);
  // Gives pages of the HiddenStore back, by their index in the holdings.
  void ReleaseHidden(std::span<const int32_t> indices, KvHoldings* kv);
  // Offers the full blocks among the first `computed` tokens to others. A block that is
  // known already replaces the sequence's own copy of the same content.
  void Publish(const CacheDomain& domain, std::span<const TokenId> tokens, int32_t computed,
               KvHoldings* kv);
  // Gives everything back, last block first, so that beginnings are evicted last.
  void Release(KvHoldings* kv);

 private:
  void MakeFree(int32_t pages);
  std::vector<PageId> BlockPages(const KvHoldings& kv, int32_t block) const;
  void Share(PrefixIndex::NodeId node);

  const KvGeometry geometry_;
  const int32_t pages_per_block_;
  const bool share_prefixes_;
  KvLedger ledger_;
  PrefixIndex index_;
};

}  // namespace skim
