#include "scheduler/kv_cache.h"

#include <algorithm>
#include <utility>

#include "base/check.h"

namespace skim {

using NodeId = PrefixIndex::NodeId;

KvCache::KvCache(const KvGeometry& geometry, bool share_prefixes, PrefixIndex::Hash hash)
    : geometry_(geometry),
      pages_per_block_(geometry.PagesPerBlock()),
      share_prefixes_(share_prefixes),
      ledger_(geometry.total_pages),
      index_(hash) {
  SKIM_CHECK(geometry.page_tokens > 0 && pages_per_block_ > 0);
}

int64_t KvCache::BlocksFor(int64_t tokens) const {
  return (tokens + geometry_.page_tokens - 1) / geometry_.page_tokens;
}

std::vector<NodeId> KvCache::Match(const CacheDomain& domain,
                                   std::span<const TokenId> tokens) const {
  std::vector<NodeId> chain;
  if (!share_prefixes_ || tokens.empty()) return chain;
  const size_t block = geometry_.page_tokens;
  const size_t most = (tokens.size() - 1) / block;
  NodeId parent = PrefixIndex::kNone;
  while (chain.size() < most) {
    parent = index_.Find(parent, domain, tokens.subspan(chain.size() * block, block));
    if (parent == PrefixIndex::kNone) break;
    chain.push_back(parent);
  }
  return chain;
}

void KvCache::Share(NodeId node) {
  index_.Use(node);
  for (const PageId page : index_.pages(node)) ledger_.Share(page);
}

void KvCache::Adopt(std::span<const NodeId> chain, KvHoldings* kv) {
  SKIM_CHECK(kv->blocks == 0);
  kv->segments.resize(geometry_.segment_units.size());
  for (const NodeId node : chain) {
    Share(node);
    kv->published.push_back(node);
    auto page = index_.pages(node).begin();
    for (size_t s = 0; s < kv->segments.size(); ++s) {
      const auto end = page + geometry_.segment_units[s];
      kv->segments[s].pages.insert(kv->segments[s].pages.end(), page, end);
      page = end;
    }
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

int64_t KvCache::Missing(const KvExtent& extent, const KvHoldings& kv) const {
  int64_t missing = std::max<int64_t>(0, extent.hidden_pages - static_cast<int64_t>(kv.hidden.size()));
  for (size_t s = 0; s < extent.slots.size(); ++s) {
    const int64_t held = kv.segments.empty() ? 0 : static_cast<int64_t>(kv.segments[s].pages.size());
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
  const int32_t hidden = extent.hidden_pages - static_cast<int32_t>(kv->hidden.size());
  if (hidden > 0) ledger_.Allocate(hidden, &kv->hidden);
  kv->blocks = static_cast<int32_t>(kv->segments[0].pages.size()) / geometry_.segment_units[0];
}

void KvCache::ReleaseHidden(std::span<const int32_t> indices, KvHoldings* kv) {
  for (const int32_t index : indices) {
    ledger_.Release(kv->hidden[index]);
    kv->hidden[index] = kNoPage;
  }
}

std::vector<PageId> KvCache::BlockPages(const KvHoldings& kv, int32_t block) const {
  std::vector<PageId> pages;
  pages.reserve(pages_per_block_);
  for (size_t s = 0; s < kv.segments.size(); ++s) {
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
      for (size_t s = 0; s < kv->segments.size(); ++s) {
        const int32_t units = geometry_.segment_units[s];
        std::copy_n(page, units, kv->segments[s].pages.begin() + size_t{1} * block * units);
        page += units;
      }
    }
    kv->published.push_back(node);
  }
}

void KvCache::Release(KvHoldings* kv) {
  for (const PageId page : kv->hidden) {
    if (page != kNoPage) ledger_.Release(page);
  }
  const auto published = static_cast<int32_t>(kv->published.size());
  for (size_t s = 0; s < kv->segments.size(); ++s) {
    const std::vector<PageId>& pages = kv->segments[s].pages;
    const size_t shared = size_t{1} * published * geometry_.segment_units[s];
    for (size_t i = pages.size(); i > shared; --i) ledger_.Release(pages[i - 1]);
  }
  for (int32_t block = published - 1; block >= 0; --block) {
    for (const PageId page : BlockPages(*kv, block)) ledger_.Release(page);
    index_.Unuse(kv->published[block]);
  }
  *kv = KvHoldings();
}

}  // namespace skim
