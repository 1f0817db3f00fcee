#include "scheduler/kv_ledger.h"

#include "base/check.h"

namespace skim {

KvLedger::KvLedger(int32_t total_pages) : pages_(total_pages) {
  free_.reserve(total_pages);
  for (PageId page = total_pages - 1; page >= 0; --page) free_.push_back(page);
}

void KvLedger::Allocate(int32_t count, std::vector<PageId>* out) {
  SKIM_CHECK(count >= 0 && count <= free());
  for (int32_t i = 0; i < count; ++i) {
    const PageId page = free_.back();
    free_.pop_back();
    pages_[page].owners = 1;
    out->push_back(page);
  }
}

void KvLedger::Share(PageId page) {
  Page& entry = pages_[page];
  SKIM_CHECK(entry.owners > 0 || entry.indexed);
  if (entry.owners++ == 0) --cached_;
}

void KvLedger::Release(PageId page) {
  Page& entry = pages_[page];
  SKIM_CHECK(entry.owners > 0);
  if (--entry.owners > 0) return;
  if (entry.indexed) {
    ++cached_;
  } else {
    free_.push_back(page);
  }
}

void KvLedger::SetIndexed(PageId page, bool indexed) {
  Page& entry = pages_[page];
  SKIM_CHECK(entry.indexed != indexed);
  SKIM_CHECK(!indexed || entry.owners > 0);
  entry.indexed = indexed;
  if (!indexed && entry.owners == 0) {
    --cached_;
    free_.push_back(page);
  }
}

}  // namespace skim
