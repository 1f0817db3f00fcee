// Which computed blocks can be reused: a trie of full blocks, found by a chained hash.
//
// A node is one block of page_tokens tokens behind its parent's. The hash only finds a
// candidate: domain, parent and token ids are compared, so a collision costs a miss and
// never hands out foreign content (compare CVE-2025-25183).
//
// Every user of a node also uses its parent, and releases it after the child. So a parent
// is never older in the LRU order than its child, the oldest unused node is always a leaf,
// and a parent's id is never reused under a living child. Loop thread only.
#pragma once

#include <cstdint>
#include <list>
#include <span>
#include <string>
#include <unordered_map>
#include <vector>

#include "base/types.h"
#include "kernels/weight.h"

namespace skim {

// Content is shared only where all of this is equal.
struct CacheDomain {
  std::string salt;            // per tenant or as the client asks; hides hits from strangers
  WeightFormat weight_format = WeightFormat::kBf16;
  uint64_t prune_profile = 0;  // 0: every token at full depth

  bool operator==(const CacheDomain&) const = default;
};

class PrefixIndex {
 public:
  using NodeId = int32_t;
  static constexpr NodeId kNone = -1;
  using Hash = uint64_t (*)(uint64_t parent, std::span<const TokenId> tokens);

  // The hash can be replaced so that a test can make everything collide.
  explicit PrefixIndex(Hash hash = &HashBlock);
  static uint64_t HashBlock(uint64_t parent, std::span<const TokenId> tokens);

  // The block `tokens` behind `parent` (kNone: at position 0), or kNone.
  NodeId Find(NodeId parent, const CacheDomain& domain, std::span<const TokenId> tokens) const;
  // Adds a block with one user; its pages now belong to the index as well. kNone when
  // another block sits on the same hash. Requires that Find gave kNone.
  NodeId Insert(NodeId parent, const CacheDomain& domain, std::span<const TokenId> tokens,
                std::vector<PageId> pages);

  void Use(NodeId node);
  void Unuse(NodeId node);

  std::span<const PageId> pages(NodeId node) const { return nodes_[node].pages; }
  int32_t users(NodeId node) const { return nodes_[node].users; }
  int32_t size() const { return static_cast<int32_t>(by_hash_.size()); }

  // Removes the node that has been unused for longest and returns its pages. Requires one.
  std::vector<PageId> EvictOldest();

 private:
  struct Node {
    uint64_t hash = 0;
    NodeId parent = kNone;
    CacheDomain domain;  // kept by first blocks only; the others inherit it
    std::vector<TokenId> tokens;
    std::vector<PageId> pages;
    int32_t users = 0;
    int32_t children = 0;
    std::list<NodeId>::iterator unused;  // valid while users == 0
  };

  uint64_t HashOf(NodeId parent, const CacheDomain& domain, std::span<const TokenId> tokens) const;

  const Hash hash_;
  std::vector<Node> nodes_;
  std::vector<NodeId> spare_;
  std::unordered_map<uint64_t, NodeId> by_hash_;
  std::list<NodeId> unused_;  // oldest first
};

}  // namespace skim
