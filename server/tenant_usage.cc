#include "server/tenant_usage.h"

namespace skim {
namespace {

constexpr char kOther[] = "other";

prometheus::Family<prometheus::Counter>& Family(prometheus::Registry* registry, const char* name,
                                                const char* help) {
  return prometheus::BuildCounter().Name(name).Help(help).Register(*registry);
}

}  // namespace

TenantUsage::TenantUsage(prometheus::Registry* registry, int max_labels)
    : choices_(Family(registry, "skim_tenant_choices_total",
                      "Choices ended, by tenant; `other` = all without a label")),
      prompt_tokens_(Family(registry, "skim_tenant_prompt_tokens_total",
                            "Prompt tokens of ended choices, by tenant")),
      generation_tokens_(Family(registry, "skim_tenant_generation_tokens_total",
                                "Tokens generated for ended choices, by tenant")),
      max_labels_(max_labels),
      other_(Add(kOther)) {}

TenantUsage::Counters TenantUsage::Add(const std::string& label) {
  return {.choices = &choices_.Add({{"tenant", label}}),
          .prompt_tokens = &prompt_tokens_.Add({{"tenant", label}}),
          .generation_tokens = &generation_tokens_.Add({{"tenant", label}})};
}

void TenantUsage::OnFinal(const std::string& tenant, const v1::Usage& usage) {
  Counters counters = other_;
  {
    std::lock_guard lock(mutex_);
    auto found = by_tenant_.find(tenant);
    if (found == by_tenant_.end() && by_tenant_.size() < max_labels_) {
      found = by_tenant_.emplace(tenant, Add(tenant)).first;
    }
    if (found != by_tenant_.end()) counters = found->second;
  }
  counters.choices->Increment();
  counters.prompt_tokens->Increment(usage.prompt_tokens());
  counters.generation_tokens->Increment(usage.generated_tokens());
}

}  // namespace skim
