// What comes into the prefix index and what goes, for whoever keeps a picture of it.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/types.h"
#include "kernels/weight.h"

namespace skim {

// Content is shared only where all of this is equal.
struct CacheDomain {
  std::string salt;  // per tenant or as the client asks; hides hits from strangers
  WeightFormat weight_format = WeightFormat::kBf16;
  // 0: K/V of all layers. Else a pruned prompt's: K/V of the layers below this one, where its
  // first cut is, and attached the hidden rows that stop there.
  int32_t end_layer = 0;

  bool operator==(const CacheDomain&) const = default;
};

// A full block has been stored or removed. A block's hash stands for it, all before it and the
// domain; no two blocks that are there at a time share one.
struct PrefixEvent {
  bool stored = false;
  uint64_t hash = 0;
  CacheDomain domain;
  // Of a stored block:
  std::optional<uint64_t> parent;  // the block before; none at position 0
  std::vector<TokenId> tokens;
};

class PrefixListener {
 public:
  virtual ~PrefixListener() = default;
  // What a step has changed, in order; not empty. On the loop thread: must not block.
  virtual void OnPrefixChange(std::span<const PrefixEvent> events) = 0;
};

}  // namespace skim
