// What each tenant has used, as metrics. Labels are bounded: the first `max_labels` tenants have
// one of their own for good, so that no counter ever falls; all others together are "other".
// Thread-safe.
#pragma once

#include <mutex>
#include <string>
#include <unordered_map>

#include "prometheus/counter.h"
#include "prometheus/registry.h"
#include "skim/v1/inference.pb.h"

namespace skim {

class TenantUsage {
 public:
  // Borrows `registry`.
  TenantUsage(prometheus::Registry* registry, int max_labels);

  // A choice of a call has ended. Calls without a tenant are counted under "".
  void OnFinal(const std::string& tenant, const v1::Usage& usage);

 private:
  struct Counters {
    prometheus::Counter* choices = nullptr;
    prometheus::Counter* prompt_tokens = nullptr;
    prometheus::Counter* generation_tokens = nullptr;
  };

  Counters Add(const std::string& label);

  prometheus::Family<prometheus::Counter>& choices_;
  prometheus::Family<prometheus::Counter>& prompt_tokens_;
  prometheus::Family<prometheus::Counter>& generation_tokens_;
  const size_t max_labels_;
  const Counters other_;
  std::mutex mutex_;
  std::unordered_map<std::string, Counters> by_tenant_;
};

}  // namespace skim
