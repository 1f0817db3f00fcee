#include "scheduler/fair_share.h"

#include <algorithm>

#include "base/check.h"

namespace skim {

FairShare::Tenant FairShare::Join(const std::string& name) {
  auto found = slots_.find(name);
  if (found == slots_.end()) {
    Tenant slot = static_cast<Tenant>(served_.size());
    if (spare_.empty()) {
      served_.push_back(0);
      requests_.push_back(0);
    } else {
      slot = spare_.back();
      spare_.pop_back();
      served_[slot] = 0;
    }
    found = slots_.emplace(name, slot).first;
  }
  const Tenant slot = found->second;
  if (requests_[slot] == 0) {
    served_[slot] = std::max(served_[slot], LeastPresent());
    ++present_;
  }
  ++requests_[slot];
  return slot;
}

void FairShare::Leave(Tenant tenant) {
  SKIM_CHECK(requests_[tenant] > 0);
  if (--requests_[tenant] > 0) return;
  --present_;
  if (slots_.size() - present_ > max_absent_) ForgetAbsent();
}

int64_t FairShare::LeastPresent() const {
  int64_t least = INT64_MAX;
  for (size_t slot = 0; slot < served_.size(); ++slot) {
    if (requests_[slot] > 0) least = std::min(least, served_[slot]);
  }
  return least == INT64_MAX ? 0 : least;
}

// All at once, so that the cost is spread over max_absent_ departures. What is lost is only
// how far ahead of the others an absent tenant was.
void FairShare::ForgetAbsent() {
  std::erase_if(slots_, [this](const auto& entry) {
    if (requests_[entry.second] > 0) return false;
    spare_.push_back(entry.second);
    return true;
  });
}

}  // namespace skim
