// Served tokens per tenant, as a virtual counter: whoever has been served least goes first.
// A tenant that comes (back) starts at the least of those present, so that having been away
// gives no claim on the past (Sheng et al., "Fairness in Serving Large Language Models",
// OSDI 2024). Loop thread only.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <unordered_map>
#include <vector>

namespace skim {

class FairShare {
 public:
  using Tenant = int32_t;  // a slot, valid while the tenant has requests

  // At most about `max_absent` tenants without requests are remembered.
  explicit FairShare(size_t max_absent = 4096) : max_absent_(max_absent) {}

  // One more, one less request of this tenant.
  Tenant Join(const std::string& name);
  void Leave(Tenant tenant);

  void Charge(Tenant tenant, int64_t tokens) { served_[tenant] += tokens; }
  // By tenant slot.
  const std::vector<int64_t>& served() const { return served_; }
  size_t remembered() const { return slots_.size(); }

 private:
  int64_t LeastPresent() const;
  void ForgetAbsent();

  const size_t max_absent_;
  std::unordered_map<std::string, Tenant> slots_;
  std::vector<int64_t> served_;
  std::vector<int32_t> requests_;
  std::vector<Tenant> spare_;
  size_t present_ = 0;
};

}  // namespace skim
