#include "server/metric_aliases.h"

#include <string_view>
#include <utility>

namespace skim {
namespace {

struct Alias {
  std::string_view own;
  const char* other;
};

constexpr Alias kAliases[] = {
    {"skim_requests_running", "vllm:num_requests_running"},
    {"skim_requests_waiting", "vllm:num_requests_waiting"},
    {"skim_kv_cache_usage_ratio", "vllm:kv_cache_usage_perc"},
    {"skim_kv_cache_config_info", "vllm:cache_config_info"},
    {"skim_prompt_tokens_total", "vllm:prompt_tokens_total"},
    {"skim_prompt_tokens_cached_total", "vllm:prompt_tokens_cached_total"},
    {"skim_generation_tokens_total", "vllm:generation_tokens_total"},
    {"skim_prefix_cache_queries_total", "vllm:prefix_cache_queries_total"},
    {"skim_prefix_cache_hits_total", "vllm:prefix_cache_hits_total"},
    {"skim_preemptions_total", "vllm:num_preemptions_total"},
    {"skim_requests_finished_total", "vllm:request_success_total"},
    {"skim_time_to_first_token_seconds", "vllm:time_to_first_token_seconds"},
    {"skim_inter_token_latency_seconds", "vllm:inter_token_latency_seconds"},
    {"skim_e2e_request_latency_seconds", "vllm:e2e_request_latency_seconds"},
    {"skim_request_queue_seconds", "vllm:request_queue_time_seconds"},
    {"skim_step_rows", "vllm:iteration_tokens_total"},
};

const Alias* FindAlias(const std::string& name) {
  for (const Alias& alias : kAliases) {
    if (alias.own == name) return &alias;
  }
  return nullptr;
}

// Labels are called otherwise there, and a cancellation abort.
void RenameLabels(prometheus::ClientMetric* metric) {
  for (auto& label : metric->label) {
    if (label.name == "num_blocks") label.name = "num_gpu_blocks";
    if (label.name != "reason") continue;
    label.name = "finished_reason";
    if (label.value == "cancelled") label.value = "abort";
  }
}

}  // namespace

std::vector<prometheus::MetricFamily> MetricAliases::Collect() const {
  std::vector<prometheus::MetricFamily> out;
  for (prometheus::MetricFamily& family : own_->Collect()) {
    const Alias* alias = FindAlias(family.name);
    if (alias == nullptr) continue;
    family.name = alias->other;
    for (prometheus::ClientMetric& metric : family.metric) {
      RenameLabels(&metric);
      metric.label.push_back({"model_name", model_name_});
      metric.label.push_back({"engine", "0"});
    }
    out.push_back(std::move(family));
  }
  return out;
}

}  // namespace skim
