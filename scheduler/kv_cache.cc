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

void KvCache::Grow(int32_t blocks, KvHoldings* kv) {
  const int32_t more = blocks - kv->blocks;
  if (more <= 0) return;
  MakeFree(more * pages_per_block_);
  kv->segments.resize(geometry_.segment_units.size());
  for (size_t s = 0; s < kv->segments.size(); ++s) {
    ledger_.Allocate(more * geometry_.segment_units[s], &kv->segments[s].pages);
  }
  kv->blocks = blocks;
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
  for (int32_t block = kv->blocks - 1; block >= 0; --block) {
    for (const PageId page : BlockPages(*kv, block)) ledger_.Release(page);
    if (block < static_cast<int32_t>(kv->published.size())) index_.Unuse(kv->published[block]);
  }
  *kv = KvHoldings();
}

}  // namespace skim
