#include "scheduler/kv_cache.h"

#include <algorithm>
#include <utility>

#include "base/check.h"

namespace skim {

using NodeId = PrefixIndex::NodeId;

KvCache::KvCache(const KvGeometry& geometry, bool share_prefixes, PrefixIndex::Hash hash)
    : geometry_(geometry),
      pages_per_block_(geometry.PagesPerBlock()),
      hidden_pages_per_block_(geometry.HiddenPagesPerBlock()),
      share_prefixes_(share_prefixes),
      ledger_(geometry.total_pages),
      index_(hash) {
  SKIM_CHECK(geometry.page_tokens > 0 && pages_per_block_ > 0);
}

int64_t KvCache::BlocksFor(int64_t tokens) const {
  return (tokens + geometry_.page_tokens - 1) / geometry_.page_tokens;
}

std::vector<NodeId> KvCache::Match(const CacheDomain& domain, const SharedPart& shared,
                                   std::span<const TokenId> tokens, int32_t least_left) const {
  std::vector<NodeId> chain;
  const auto left = static_cast<size_t>(least_left);
  if (!share_prefixes_ || tokens.size() < left) return chain;
  const size_t block = geometry_.page_tokens;
  const size_t most = (tokens.size() - left) / block;
  NodeId parent = PrefixIndex::kNone;
  while (chain.size() < most) {
    parent = index_.Find(parent, domain, tokens.subspan(chain.size() * block, block));
    if (parent == PrefixIndex::kNone) break;
    if (shared.hidden && index_.attached(parent).empty()) break;
    chain.push_back(parent);
  }
  return chain;
}

int64_t KvCache::PagesOf(std::span<const NodeId> chain, const SharedPart& shared) const {
  int64_t pages = 0;
  for (const NodeId node : chain) {
    pages += static_cast<int64_t>(index_.pages(node).size());
    if (shared.hidden) pages += static_cast<int64_t>(index_.attached(node).size());
  }
  return pages;
}

void KvCache::Share(NodeId node) {
  index_.Use(node);
  for (const PageId page : index_.pages(node)) ledger_.Share(page);
}

void KvCache::ShareAttached(NodeId node) {
  index_.UseAttached(node);
  for (const PageId page : index_.attached(node)) ledger_.Share(page);
}

void KvCache::Adopt(std::span<const NodeId> chain, const SharedPart& shared, KvHoldings* kv) {
  SKIM_CHECK(kv->blocks == 0);
  kv->segments.resize(geometry_.segment_units.size());
  kv->shared = shared;
  for (const NodeId node : chain) {
    Share(node);
    kv->published.push_back(node);
    auto page = index_.pages(node).begin();
    for (int32_t s = 0; s < shared.segments; ++s) {
      const auto end = page + geometry_.segment_units[s];
      kv->segments[s].pages.insert(kv->segments[s].pages.end(), page, end);
      page = end;
    }
    if (!shared.hidden) continue;
    ShareAttached(node);
    const auto attached = index_.attached(node);
    kv->hidden.insert(kv->hidden.end(), attached.begin(), attached.end());
  }
  kv->blocks = static_cast<int32_t>(chain.size());
}

void KvCache::MakeFree(int32_t pages) {
  while (ledger_.free() < pages) {
    for (const PageId page : index_.EvictOldest()) ledger_.SetIndexed(page, false);
  }
}

KvExtent KvCache::FullExtent(int64_t tokens) const {
  KvExtent extent;
  extent.slots.assign(geometry_.segment_units.size(), static_cast<int32_t>(tokens));
  return extent;
}

int64_t KvCache::PagesFor(const KvExtent& extent) const { return Missing(extent, KvHoldings()); }

int32_t KvCache::DraftModelPages(const KvExtent& extent) const {
  return static_cast<int32_t>(BlocksFor(extent.draft_slots)) * geometry_.draft_model.units;
}

int64_t KvCache::Missing(const KvExtent& extent, const KvHoldings& kv) const {
  const auto lacks = [](int32_t wanted, int64_t held) {
    return std::max<int64_t>(0, wanted - held);
  };
  const int64_t hidden = std::max<int64_t>(extent.first_hidden_page, std::ssize(kv.hidden));
  int64_t missing = lacks(extent.hidden_pages, hidden) +
                    lacks(extent.deep_hidden_pages, std::ssize(kv.deep_hidden)) +
                    lacks(DraftModelPages(extent), std::ssize(kv.draft_model));
  for (size_t s = 0; s < extent.slots.size(); ++s) {
    const int64_t held =
        kv.segments.empty() ? 0 : static_cast<int64_t>(kv.segments[s].pages.size());
    missing += std::max<int64_t>(0, BlocksFor(extent.slots[s]) * geometry_.segment_units[s] - held);
  }
  return missing;
}

void KvCache::Grow(const KvExtent& extent, KvHoldings* kv) {
  MakeFree(static_cast<int32_t>(Missing(extent, *kv)));
  kv->segments.resize(geometry_.segment_units.size());
  for (size_t s = 0; s < kv->segments.size(); ++s) {
    std::vector<PageId>& pages = kv->segments[s].pages;
    const int64_t more = BlocksFor(extent.slots[s]) * geometry_.segment_units[s] -
                         static_cast<int64_t>(pages.size());
    if (more > 0) ledger_.Allocate(static_cast<int32_t>(more), &pages);
  }
  const auto grow = [this](int32_t wanted, std::vector<PageId>* pages) {
    const int32_t more = wanted - static_cast<int32_t>(pages->size());
    if (more > 0) ledger_.Allocate(more, pages);
  };
  if (extent.hidden_pages > 0 && std::ssize(kv->hidden) < extent.first_hidden_page) {
    kv->hidden.resize(static_cast<size_t>(extent.first_hidden_page), kNoPage);
  }
  grow(extent.hidden_pages, &kv->hidden);
  grow(extent.deep_hidden_pages, &kv->deep_hidden);
  grow(DraftModelPages(extent), &kv->draft_model);
  kv->blocks = static_cast<int32_t>(kv->segments[0].pages.size()) / geometry_.segment_units[0];
}

void KvCache::Trim(const KvExtent& extent, KvHoldings* kv) {
  for (size_t s = kv->shared.segments; s < kv->segments.size(); ++s) {
    std::vector<PageId>& pages = kv->segments[s].pages;
    const int64_t wanted = BlocksFor(extent.slots[s]) * geometry_.segment_units[s];
    while (std::ssize(pages) > wanted) {
      ledger_.Release(pages.back());
      pages.pop_back();
    }
  }
}

std::span<PageId> KvCache::HiddenOf(KvHoldings* kv, int32_t block) const {
  const size_t first = size_t{1} * block * hidden_pages_per_block_;
  return std::span(kv->hidden)
      .subspan(first, std::min<size_t>(hidden_pages_per_block_, kv->hidden.size() - first));
}

void KvCache::ReleaseHidden(std::span<const int32_t> blocks, std::span<const int32_t> deep_pages,
                            KvHoldings* kv) {
  for (const int32_t block : blocks) {
    for (PageId& page : HiddenOf(kv, block)) {
      if (page != kNoPage) ledger_.Release(std::exchange(page, kNoPage));
    }
    if (kv->shared.hidden && block < static_cast<int32_t>(kv->published.size())) {
      index_.UnuseAttached(kv->published[block]);
    }
  }
  for (const int32_t page : deep_pages) {
    ledger_.Release(std::exchange(kv->deep_hidden[page], kNoPage));
  }
}

void KvCache::ReleaseAllHidden(KvHoldings* kv) {
  // Last block first: hidden rows are of no use without those before them.
  std::vector<int32_t> blocks;
  for (size_t i = 0; i < kv->hidden.size(); ++i) {
    const int32_t block = static_cast<int32_t>(i) / hidden_pages_per_block_;
    const bool known = !blocks.empty() && blocks.back() == block;
    if (kv->hidden[i] != kNoPage && !known) blocks.push_back(block);
  }
  std::ranges::reverse(blocks);
  std::vector<int32_t> deep_pages;
  for (size_t i = 0; i < kv->deep_hidden.size(); ++i) {
    if (kv->deep_hidden[i] != kNoPage) deep_pages.push_back(static_cast<int32_t>(i));
  }
  ReleaseHidden(blocks, deep_pages, kv);
  // Exit rows are those of one round: the next begins at another page.
  if (!kv->shared.hidden) kv->hidden.clear();
}

void KvCache::ReleaseDraftModel(KvHoldings* kv) {
  for (const PageId page : kv->draft_model) ledger_.Release(page);
  kv->draft_model.clear();
}

std::vector<PageId> KvCache::BlockPages(const KvHoldings& kv, int32_t block) const {
  std::vector<PageId> pages;
  for (int32_t s = 0; s < kv.shared.segments; ++s) {
    const int32_t units = geometry_.segment_units[s];
    const auto first = kv.segments[s].pages.begin() + size_t{1} * block * units;
    pages.insert(pages.end(), first, first + units);
  }
  return pages;
}

void KvCache::Publish(const CacheDomain& domain, std::span<const TokenId> tokens, int32_t computed,
                      KvHoldings* kv) {
  if (!share_prefixes_) return;
  const int32_t full = computed / geometry_.page_tokens;
  while (kv->publishable && static_cast<int32_t>(kv->published.size()) < full) {
    const int32_t block = static_cast<int32_t>(kv->published.size());
    const NodeId parent = block == 0 ? PrefixIndex::kNone : kv->published.back();
    const auto content =
        tokens.subspan(size_t{1} * block * geometry_.page_tokens, geometry_.page_tokens);
    std::vector<PageId> own = BlockPages(*kv, block);
    NodeId node = index_.Find(parent, domain, content);
    if (node == PrefixIndex::kNone) {
      node = index_.Insert(parent, domain, content, own);
      if (node == PrefixIndex::kNone) {
        kv->publishable = false;
        return;
      }
      for (const PageId page : own) ledger_.SetIndexed(page, true);
    } else {
      Share(node);
      for (const PageId page : own) ledger_.Release(page);
      auto page = index_.pages(node).begin();
      for (int32_t s = 0; s < kv->shared.segments; ++s) {
        const int32_t units = geometry_.segment_units[s];
        std::copy_n(page, units, kv->segments[s].pages.begin() + size_t{1} * block * units);
        page += units;
      }
    }
    kv->published.push_back(node);
    if (kv->shared.hidden) PublishHidden(node, block, kv);
  }
}

void KvCache::PublishHidden(NodeId node, int32_t block, KvHoldings* kv) {
  const std::span<PageId> own = HiddenOf(kv, block);
  if (index_.attached(node).empty()) {
    index_.Attach(node, {own.begin(), own.end()});
    for (const PageId page : own) ledger_.SetIndexed(page, true);
    return;
  }
  ShareAttached(node);
  for (const PageId page : own) ledger_.Release(page);
  std::ranges::copy(index_.attached(node), own.begin());
}

void KvCache::Release(KvHoldings* kv) {
  const auto published = static_cast<int32_t>(kv->published.size());
  ReleaseAllHidden(kv);
  ReleaseDraftModel(kv);
  for (size_t s = 0; s < kv->segments.size(); ++s) {
    const std::vector<PageId>& pages = kv->segments[s].pages;
    const bool shared = static_cast<int32_t>(s) < kv->shared.segments;
    const size_t kept = shared ? size_t{1} * published * geometry_.segment_units[s] : 0;
    for (size_t i = pages.size(); i > kept; --i) ledger_.Release(pages[i - 1]);
  }
  for (int32_t block = published - 1; block >= 0; --block) {
    for (const PageId page : BlockPages(*kv, block)) ledger_.Release(page);
    index_.Unuse(kv->published[block]);
  }
  *kv = KvHoldings();
}

}  // namespace skim
