#include "scheduler/prefix_index.h"

#include <algorithm>
#include <utility>

#include "base/check.h"

namespace skim {
namespace {

// The finalizer of SplitMix64: every input bit reaches every output bit.
uint64_t Mix(uint64_t x) {
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  return x ^ (x >> 31);
}

uint64_t Chain(uint64_t hash, uint64_t value) { return Mix((hash ^ value) + 0x9e3779b97f4a7c15u); }

uint64_t Seed(const CacheDomain& domain) {
  uint64_t hash = Chain(0, static_cast<uint64_t>(domain.weight_format));
  hash = Chain(hash, static_cast<uint64_t>(domain.end_layer));
  for (const char c : domain.salt) hash = Chain(hash, static_cast<uint8_t>(c));
  return hash;
}

}  // namespace

PrefixIndex::PrefixIndex(Hash hash) : hash_(hash) {}

uint64_t PrefixIndex::HashBlock(uint64_t parent, std::span<const TokenId> tokens) {
  uint64_t hash = parent;
  for (const TokenId token : tokens) hash = Chain(hash, static_cast<uint32_t>(token));
  return hash;
}

uint64_t PrefixIndex::HashOf(NodeId parent, const CacheDomain& domain,
                             std::span<const TokenId> tokens) const {
  return hash_(parent == kNone ? Seed(domain) : nodes_[parent].hash, tokens);
}

PrefixIndex::NodeId PrefixIndex::Find(NodeId parent, const CacheDomain& domain,
                                      std::span<const TokenId> tokens) const {
  const auto found = by_hash_.find(HashOf(parent, domain, tokens));
  if (found == by_hash_.end()) return kNone;
  const Node& node = nodes_[found->second];
  if (node.parent != parent) return kNone;
  if (parent == kNone && node.domain != domain) return kNone;
  return std::ranges::equal(node.tokens, tokens) ? found->second : kNone;
}

PrefixIndex::NodeId PrefixIndex::Insert(NodeId parent, const CacheDomain& domain,
                                        std::span<const TokenId> tokens,
                                        std::vector<PageId> pages) {
  const uint64_t hash = HashOf(parent, domain, tokens);
  const NodeId id = spare_.empty() ? static_cast<NodeId>(nodes_.size()) : spare_.back();
  if (!by_hash_.try_emplace(hash, id).second) return kNone;
  if (spare_.empty()) {
    nodes_.emplace_back();
  } else {
    spare_.pop_back();
  }
  Node& node = nodes_[id];
  node.hash = hash;
  node.parent = parent;
  if (parent == kNone) {
    node.first = id;
    node.domain = domain;
  } else {
    node.first = nodes_[parent].first;
    SKIM_CHECK(nodes_[parent].users > 0);
    ++nodes_[parent].children;
  }
  node.tokens.assign(tokens.begin(), tokens.end());
  node.pages = std::move(pages);
  node.users = 1;
  if (recording_) {
    PrefixEvent& event = events_.emplace_back();
    event.stored = true;
    event.hash = hash;
    event.domain = domain;
    if (parent != kNone) event.parent = nodes_[parent].hash;
    event.tokens = node.tokens;
  }
  return id;
}

void PrefixIndex::Use(NodeId id) {
  Node& node = nodes_[id];
  if (node.users++ == 0) unused_.erase(node.unused);
}

void PrefixIndex::Unuse(NodeId id) {
  Node& node = nodes_[id];
  SKIM_CHECK(node.users > 0);
  if (--node.users == 0) node.unused = unused_.insert(unused_.end(), {id, /*attached=*/false});
}

void PrefixIndex::Attach(NodeId id, std::vector<PageId> pages) {
  Node& node = nodes_[id];
  SKIM_CHECK(node.users > 0 && node.attached.empty());
  node.attached = std::move(pages);
  node.attached_users = 1;
}

void PrefixIndex::UseAttached(NodeId id) {
  Node& node = nodes_[id];
  if (node.attached_users++ == 0) unused_.erase(node.attached_unused);
}

void PrefixIndex::UnuseAttached(NodeId id) {
  Node& node = nodes_[id];
  SKIM_CHECK(node.attached_users > 0);
  if (--node.attached_users > 0) return;
  node.attached_unused = unused_.insert(unused_.end(), {id, /*attached=*/true});
}

std::vector<PageId> PrefixIndex::EvictOldest() {
  SKIM_CHECK(!unused_.empty());
  const auto [id, attached] = unused_.front();
  unused_.pop_front();
  Node& node = nodes_[id];
  if (attached) return std::exchange(node.attached, {});
  SKIM_CHECK(node.children == 0 && node.attached_users == 0);
  if (recording_) {
    PrefixEvent& event = events_.emplace_back();
    event.hash = node.hash;
    event.domain = nodes_[node.first].domain;
  }
  by_hash_.erase(node.hash);
  if (node.parent != kNone) --nodes_[node.parent].children;
  std::vector<PageId> pages = std::move(node.pages);
  if (!node.attached.empty()) {
    unused_.erase(node.attached_unused);
    pages.insert(pages.end(), node.attached.begin(), node.attached.end());
  }
  node = Node();
  spare_.push_back(id);
  return pages;
}

}  // namespace skim
