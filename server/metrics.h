// What the daemon measures, as Prometheus text under /metrics. Updates are atomics or a
// histogram's own short lock; a scrape never touches the scheduler.
#pragma once

#include <array>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "engine/engine.h"
#include "prometheus/counter.h"
#include "prometheus/gauge.h"
#include "prometheus/histogram.h"
#include "prometheus/registry.h"
#include "scheduler/observer.h"
#include "skim/v1/inference.pb.h"

namespace skim {

class Metrics final : public ServingObserver {
 public:
  Metrics();

  // --- serving loop ---
  void OnStep(const StepStats& stats) override;
  void OnState(const LoopState& state) override;
  void OnFirstToken(Micros time_to_first_token, PrefillMode mode) override;
  void OnTokens(int32_t tokens, Micros since_last) override;
  void OnFinish(const Finish& finish) override;

  // --- RPC layer, any thread ---
  // One choice has ended. The loop cannot tell: to it a stop string is a cancellation.
  void OnOutcome(v1::FinishReason reason);
  // A call ended before or instead of a result.
  void OnRefused(absl::StatusCode code);

  // --- once, after loading ---
  // Sizes of the KV cache, once known.
  void SetKvCache(int32_t page_tokens, int64_t tokens);
  void SetModel(const std::string& name, const ModelInfo& model);

  // For the HTTP exposer, which holds it weakly.
  const std::shared_ptr<prometheus::Registry>& registry() const { return registry_; }

 private:
  void AddSpeculation();
  prometheus::Counter& AddCounter(const char* name, const char* help);
  prometheus::Gauge& AddGauge(const char* name, const char* help);
  prometheus::Histogram& AddHistogram(const char* name, const char* help,
                                      const prometheus::Histogram::BucketBoundaries& buckets);

  const std::shared_ptr<prometheus::Registry> registry_;

  prometheus::Histogram& time_to_first_token_;
  prometheus::Family<prometheus::Histogram>& prefill_time_;
  std::array<prometheus::Histogram*, 3> prefill_time_by_mode_;
  prometheus::Histogram& inter_token_latency_;
  prometheus::Histogram& request_latency_;
  prometheus::Histogram& queue_time_;
  prometheus::Histogram& step_duration_;
  prometheus::Histogram& step_rows_;
  prometheus::Histogram& draft_pass_duration_;

  prometheus::Counter& prompt_tokens_;
  prometheus::Counter& cached_prompt_tokens_;
  prometheus::Counter& generation_tokens_;
  prometheus::Counter& prefill_rows_;
  prometheus::Counter& decode_rows_;
  prometheus::Family<prometheus::Counter>& format_rows_;
  std::array<prometheus::Counter*, kWeightFormats> rows_by_format_;
  prometheus::Counter& pruned_requests_;
  prometheus::Counter& pruned_kept_;
  prometheus::Counter& pruned_predicted_;
  prometheus::Counter& pruned_revived_;
  prometheus::Counter& pruned_layers_;
  prometheus::Counter& revival_stopped_;
  prometheus::Counter& draft_rows_;
  prometheus::Counter& catch_up_rows_;
  prometheus::Counter& verify_rows_;
  // By source; those of one name are one.
  std::array<prometheus::Counter*, kDraftSources> rounds_{}, drafted_{}, accepted_{};
  // By position in the round.
  std::array<prometheus::Counter*, kMaxDrafts> drafted_at_{}, accepted_at_{};
  prometheus::Counter& prefix_queries_;
  prometheus::Counter& prefix_hits_;
  prometheus::Counter& answer_lookups_;
  prometheus::Counter& answer_hits_;
  prometheus::Counter& graph_launches_;
  prometheus::Counter& preemptions_;
  prometheus::Family<prometheus::Counter>& finished_;
  std::array<prometheus::Counter*, 5> finished_by_reason_;
  prometheus::Family<prometheus::Counter>& refused_;

  prometheus::Gauge& running_;
  prometheus::Gauge& waiting_;
  prometheus::Gauge& waiting_tokens_;
  prometheus::Gauge& kv_usage_;
  prometheus::Family<prometheus::Gauge>& kv_pages_;
  prometheus::Gauge& kv_pages_free_;
  prometheus::Gauge& kv_pages_cached_;
  prometheus::Gauge& kv_pages_owned_;
  prometheus::Gauge& answer_bytes_;
  prometheus::Gauge& answer_owners_;
  prometheus::Gauge& weight_bytes_;
  prometheus::Gauge& kv_cache_bytes_;
};

}  // namespace skim
