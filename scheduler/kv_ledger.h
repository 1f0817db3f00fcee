// Who holds which KV page: ids and reference counts, never bytes. A page is
//   free    nobody's, content worthless;
//   owned   held by one or more sequences;
//   cached  held by no sequence, but its content is in the prefix index: evictable.
// free + cached + owned == total, always (guarantee G4). Loop thread only.
#pragma once

#include <cstdint>
#include <vector>

#include "base/types.h"

namespace skim {

class KvLedger {
 public:
  explicit KvLedger(int32_t total_pages);

  int32_t total() const { return static_cast<int32_t>(pages_.size()); }
  int32_t free() const { return static_cast<int32_t>(free_.size()); }
  int32_t cached() const { return cached_; }
  int32_t owned() const { return total() - free() - cached_; }
  int32_t owners(PageId page) const { return pages_[page].owners; }
  bool indexed(PageId page) const { return pages_[page].indexed; }

  // Appends `count` free pages, now with one owner each. Requires count <= free().
  void Allocate(int32_t count, std::vector<PageId>* out);
  // One more owner of a page that is owned or cached.
  void Share(PageId page);
  // One owner less; without owners the page becomes cached if indexed, else free.
  void Release(PageId page);
  // The prefix index took up, or dropped, the content of the page.
  void SetIndexed(PageId page, bool indexed);

 private:
  struct Page {
    int32_t owners = 0;
    bool indexed = false;
  };

  std::vector<Page> pages_;
  std::vector<PageId> free_;  // a stack: the page freed last is the warmest
  int32_t cached_ = 0;
};

}  // namespace skim
