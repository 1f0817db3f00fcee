// KV pages as sequences see them: blocks grown, shared through the prefix cache, published
// and given back. Joins KvLedger (counts) and PrefixIndex (content). Loop thread only.
#pragma once

#include <algorithm>
#include <cstdint>
#include <iterator>
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
  std::vector<int32_t> slots;     // per segment
  // Of the HiddenStore: rows that stop at the first cut, or at a draft's exit, all pages from
  // this one on, and rows that stop at later cuts.
  int32_t first_hidden_page = 0;
  int32_t hidden_pages = 0;
  int32_t deep_hidden_pages = 0;
  int32_t draft_slots = 0;  // of the draft model, which keeps position i in slot i
};

// How much of a sequence's blocks the prefix index shares.
struct SharedPart {
  int32_t segments = 0;  // the first so many
  bool hidden = false;   // and the hidden rows at their end
};

// What one sequence holds. The first published.size() blocks are nodes of the prefix index in
// the segments that are shared, possibly used by others and never written again; everything else
// is this sequence's alone.
struct KvHoldings {
  std::vector<KvSpan> segments;
  SharedPart shared;
  std::vector<PrefixIndex::NodeId> published;
  int32_t blocks = 0;       // of the first segment; of all, unless the sequence is pruned
  bool publishable = true;  // false once a hash collision broke the chain
  // Pages of the HiddenStore, kNoPage where none is held: for the blocks in order, as many for
  // each. Where hidden rows are shared, those of a published block are attached to its node.
  std::vector<PageId> hidden;
  std::vector<PageId> deep_hidden;
  // Of the draft model: entry block * units + unit. Nobody else's.
  std::vector<PageId> draft_model;

  int64_t hidden_pages() const {
    const auto held = [](PageId page) { return page != kNoPage; };
    return std::ranges::count_if(hidden, held) + std::ranges::count_if(deep_hidden, held);
  }
  int64_t pages() const {
    int64_t sum = hidden_pages() + std::ssize(draft_model);
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
  // As those of the index.
  void RecordEvents() { index_.RecordEvents(); }
  std::vector<PrefixEvent> TakeEvents() { return index_.TakeEvents(); }
  const KvGeometry& geometry() const { return geometry_; }
  int32_t page_tokens() const { return geometry_.page_tokens; }
  int32_t pages_per_block() const { return pages_per_block_; }
  // Pages that a new owner could get, evicting what nobody uses.
  int32_t Available() const { return ledger_.free() + ledger_.cached(); }
  int64_t BlocksFor(int64_t tokens) const;  // blocks that hold so many tokens
  int64_t PagesFor(int64_t tokens) const { return BlocksFor(tokens) * pages_per_block_; }

  // What an unpruned sequence shares.
  SharedPart WholeBlocks() const {
    return {static_cast<int32_t>(geometry_.segment_units.size()), /*hidden=*/false};
  }
  int32_t hidden_pages_per_block() const { return hidden_pages_per_block_; }

  // The longest cached chain of full blocks that leaves at least `least_left` tokens to compute:
  // without the last one there would be no logits. Empty if prefixes are not shared.
  std::vector<PrefixIndex::NodeId> Match(const CacheDomain& domain, const SharedPart& shared,
                                         std::span<const TokenId> tokens,
                                         int32_t least_left = 1) const;
  int64_t PagesOf(std::span<const PrefixIndex::NodeId> chain, const SharedPart& shared) const;

  // Makes the chain the beginning of empty holdings, of which `shared` is to be shared.
  void Adopt(std::span<const PrefixIndex::NodeId> chain, const SharedPart& shared, KvHoldings* kv);
  // Of a sequence that has `tokens` tokens in every segment.
  KvExtent FullExtent(int64_t tokens) const;
  int64_t PagesFor(const KvExtent& extent) const;
  // Pages that holdings lack to reach so far.
  int64_t Missing(const KvExtent& extent, const KvHoldings& kv) const;
  // Extends the holdings, evicting the oldest unused content for it. Requires Available() to
  // suffice.
  void Grow(const KvExtent& extent, KvHoldings* kv);
  // Gives back what the sequence holds alone of the segments' pages beyond the extent.
  void Trim(const KvExtent& extent, KvHoldings* kv);
  // Gives pages of the HiddenStore back: those of whole blocks, and single ones of deeper rows.
  void ReleaseHidden(std::span<const int32_t> blocks, std::span<const int32_t> deep_pages,
                     KvHoldings* kv);
  void ReleaseAllHidden(KvHoldings* kv);
  void ReleaseDraftModel(KvHoldings* kv);
  // Offers the full blocks among the first `computed` tokens to others. A block that is
  // known already replaces the sequence's own copy of the same content.
  void Publish(const CacheDomain& domain, std::span<const TokenId> tokens, int32_t computed,
               KvHoldings* kv);
  // Gives everything back, last block first, so that beginnings are evicted last.
  void Release(KvHoldings* kv);

 private:
  void MakeFree(int32_t pages);
  int32_t DraftModelPages(const KvExtent& extent) const;
  // Of what is shared.
  std::vector<PageId> BlockPages(const KvHoldings& kv, int32_t block) const;
  std::span<PageId> HiddenOf(KvHoldings* kv, int32_t block) const;
  void Share(PrefixIndex::NodeId node);
  void ShareAttached(PrefixIndex::NodeId node);
  void PublishHidden(PrefixIndex::NodeId node, int32_t block, KvHoldings* kv);

  const KvGeometry geometry_;
  const int32_t pages_per_block_;
  const int32_t hidden_pages_per_block_;
  const bool share_prefixes_;
  KvLedger ledger_;
  PrefixIndex index_;
};

}  // namespace skim
