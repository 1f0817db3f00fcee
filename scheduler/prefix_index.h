// Which computed blocks can be reused: a trie of full blocks, found by a chained hash.
//
// A node is one block of page_tokens tokens behind its parent's. The hash only finds a
// candidate: domain, parent and token ids are compared, so a collision costs a miss and
// never hands out foreign content (compare CVE-2025-25183).
//
// Every user of a node also uses its parent, and releases it after the child. So a parent
// is never older in the LRU order than its child, the oldest unused node is always a leaf,
// and a parent's id is never reused under a living child.
//
// A node can have pages attached: content that only some of its users need (hidden rows). Who
// uses them also uses the node. Unused, they can be evicted before the node is. Loop thread only.
#pragma once

#include <cstdint>
#include <list>
#include <span>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "base/types.h"
#include "scheduler/prefix_events.h"

namespace skim {

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

  // Gives a node that has none pages to be attached, with one user.
  void Attach(NodeId node, std::vector<PageId> pages);
  void UseAttached(NodeId node);
  void UnuseAttached(NodeId node);

  std::span<const PageId> pages(NodeId node) const { return nodes_[node].pages; }
  std::span<const PageId> attached(NodeId node) const { return nodes_[node].attached; }
  int32_t attached_users(NodeId node) const { return nodes_[node].attached_users; }
  int32_t users(NodeId node) const { return nodes_[node].users; }

  // From now on: what Insert and EvictOldest do.
  void RecordEvents() { recording_ = true; }
  // Those since the last call.
  std::vector<PrefixEvent> TakeEvents() { return std::exchange(events_, {}); }

  int32_t size() const { return static_cast<int32_t>(by_hash_.size()); }

  // Removes the node, or what is attached to one, that has been unused for longest and returns
  // the pages. Requires one.
  std::vector<PageId> EvictOldest();

 private:
  struct Unused {
    NodeId node;
    bool attached;  // what is attached to it, not itself
  };
  using UnusedList = std::list<Unused>;

  struct Node {
    uint64_t hash = 0;
    NodeId parent = kNone;
    NodeId first = kNone;  // of its chain; lives as long as this
    CacheDomain domain;  // kept by first blocks only; the others inherit it
    std::vector<TokenId> tokens;
    std::vector<PageId> pages;
    std::vector<PageId> attached;
    int32_t users = 0;
    int32_t attached_users = 0;
    int32_t children = 0;
    UnusedList::iterator unused;           // valid while users == 0
    UnusedList::iterator attached_unused;  // while attached_users == 0 and something is attached
  };

  uint64_t HashOf(NodeId parent, const CacheDomain& domain, std::span<const TokenId> tokens) const;

  const Hash hash_;
  std::vector<Node> nodes_;
  std::vector<NodeId> spare_;
  std::unordered_map<uint64_t, NodeId> by_hash_;
  UnusedList unused_;  // oldest first
  bool recording_ = false;
  std::vector<PrefixEvent> events_;
};

}  // namespace skim
