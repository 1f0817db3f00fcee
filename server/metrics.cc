#include "server/metrics.h"

#include "server/final_message.h"
#include "server/version.h"

namespace skim {
namespace {

using Buckets = prometheus::Histogram::BucketBoundaries;

// Long-established bounds of LLM servers, with finer ones below 10 ms: small models on
// CPUs make a token in less.
const Buckets kFirstTokenSeconds = {.001, .0025, .005, .0075, .01, .02, .04, .06,
                                    .08,  .1,    .25,  .5,    .75, 1,   2.5, 5,
                                    7.5,  10,    20,   40,    80,  160, 640, 2560};
const Buckets kInterTokenSeconds = {.0005, .001, .002, .003, .004, .005, .0075, .01, .015, .02,
                                    .025,  .05,  .075, .1,   .15,  .2,   .3,    .4,  .5,   .75,
                                    1,     2.5,  5,    7.5,  10,   20,   40,    80};
const Buckets kRequestSeconds = {.01, .025, .05, .1, .2, .3, .5, .8,  1,   1.5, 2,   2.5,  5,
                                 10,  15,   20,  30, 40, 50, 60, 120, 240, 480, 960, 1920, 7680};
const Buckets kQueueSeconds = {.001, .0025, .005, .01, .025, .05, .1,  .2,   .3,  .5,
                               .8,   1,     1.5,  2,   2.5,  5,   10,  15,   20,  30,
                               40,   50,    60,   120, 240,  480, 960, 1920, 7680};
const Buckets kStepSeconds = {.0005, .001, .002, .003, .005, .0075, .01, .02, .03, .05, .075,
                              .1,    .15,  .2,   .3,   .5,   .75,   1,   2.5, 5,   10};
const Buckets kStepRows = {1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096};

double Seconds(Micros micros) { return static_cast<double>(micros) / 1e6; }

}  // namespace

Metrics::Metrics()
    : registry_(std::make_shared<prometheus::Registry>()),
      time_to_first_token_(AddHistogram("skim_time_to_first_token_seconds",
                                        "From submission to the first token", kFirstTokenSeconds)),
      prefill_time_(prometheus::BuildHistogram()
                        .Name("skim_prefill_time_to_first_token_seconds")
                        .Help("The same, by what the prefill did")
                        .Register(*registry_)),
      prefill_time_by_mode_{},
      inter_token_latency_(
          AddHistogram("skim_inter_token_latency_seconds",
                       "Between consecutive outputs of one sequence: one token, or those that "
                       "one step of speculation accepted",
                       kInterTokenSeconds)),
      request_latency_(AddHistogram("skim_e2e_request_latency_seconds",
                                    "From submission to the end of a sequence", kRequestSeconds)),
      queue_time_(AddHistogram("skim_request_queue_seconds", "From submission to the first step",
                               kQueueSeconds)),
      step_duration_(
          AddHistogram("skim_step_duration_seconds", "Of one engine step", kStepSeconds)),
      step_rows_(AddHistogram("skim_step_rows", "Rows (tokens) in one engine step", kStepRows)),
      draft_pass_duration_(AddHistogram("skim_draft_pass_duration_seconds",
                                        "Of one draft pass, which is no step", kStepSeconds)),
      prompt_tokens_(AddCounter("skim_prompt_tokens_total", "Prompt tokens of ended sequences")),
      cached_prompt_tokens_(
          AddCounter("skim_prompt_tokens_cached_total", "Of those, taken from the prefix cache")),
      generation_tokens_(AddCounter("skim_generation_tokens_total", "Tokens generated")),
      prefill_rows_(AddCounter("skim_prefill_rows_total", "Rows of prompts computed")),
      decode_rows_(AddCounter("skim_decode_rows_total", "Rows of generated tokens computed")),
      format_rows_(prometheus::BuildCounter()
                       .Name("skim_rows_total")
                       .Help("Rows (tokens) computed, by weight format")
                       .Register(*registry_)),
      rows_by_format_{},
      pruned_requests_(AddCounter("skim_pruned_sequences_total", "Sequences with a pruned prompt")),
      pruned_kept_(AddCounter("skim_pruned_prompt_tokens_kept_total",
                              "Their prompt tokens that the prefill ran through all layers")),
      pruned_predicted_(AddCounter("skim_pruned_prompt_tokens_predicted_total",
                                   "Pruned tokens seen through predicted keys and values")),
      pruned_revived_(AddCounter("skim_pruned_prompt_tokens_revived_total",
                                 "Pruned tokens brought back, once per boundary they passed")),
      pruned_layers_(AddCounter("skim_prompt_token_layers_saved_total",
                                "Prompt tokens times layers not computed")),
      revival_stopped_(AddCounter("skim_revival_stopped_total",
                                  "Sequences that lost their hidden rows for lack of memory")),
      draft_rows_(AddCounter("skim_draft_rows_total", "Rows of draft passes computed")),
      catch_up_rows_(AddCounter("skim_draft_catch_up_rows_total",
                                "Rows that the draft model ran to draft behind them")),
      verify_rows_(AddCounter("skim_verify_rows_total", "Rows of drafts to be verified computed")),
      prefix_queries_(AddCounter("skim_prefix_cache_queries_total",
                                 "Prompt tokens looked up in the prefix cache")),
      prefix_hits_(AddCounter("skim_prefix_cache_hits_total", "Prompt tokens found there")),
      answer_lookups_(AddCounter("skim_answer_store_lookups_total",
                                 "Looks into earlier answers for drafts, one a sequence and step")),
      answer_hits_(AddCounter("skim_answer_store_hits_total", "Of those, found a continuation")),
      graph_launches_(AddCounter("skim_cuda_graph_launches_total",
                                 "CUDA graphs launched in place of a step's kernels one by one")),
      preemptions_(AddCounter("skim_preemptions_total", "Sequences preempted")),
      finished_(prometheus::BuildCounter()
                    .Name("skim_requests_finished_total")
                    .Help("Choices ended, by reason")
                    .Register(*registry_)),
      finished_by_reason_{},
      refused_(prometheus::BuildCounter()
                   .Name("skim_requests_refused_total")
                   .Help("Calls ended with a status instead of a result, by gRPC code")
                   .Register(*registry_)),
      running_(AddGauge("skim_requests_running", "Sequences that hold KV pages")),
      waiting_(AddGauge("skim_requests_waiting", "Sequences in the queue")),
      waiting_tokens_(AddGauge("skim_waiting_tokens", "Prompt tokens in the queue")),
      kv_usage_(AddGauge("skim_kv_cache_usage_ratio", "Share of KV pages held by sequences")),
      kv_pages_(prometheus::BuildGauge()
                    .Name("skim_kv_pages")
                    .Help("KV pages: free, cached (reusable content) or owned by sequences")
                    .Register(*registry_)),
      kv_pages_free_(kv_pages_.Add({{"state", "free"}})),
      kv_pages_cached_(kv_pages_.Add({{"state", "cached"}})),
      kv_pages_owned_(kv_pages_.Add({{"state", "owned"}})),
      answer_bytes_(AddGauge("skim_answer_store_bytes", "Memory that stored answers take")),
      answer_owners_(
          AddGauge("skim_answer_store_owners", "Tenants and cache salts that have stored answers")),
      weight_bytes_(AddGauge("skim_model_weight_bytes", "Resident weights, all formats together")),
      kv_cache_bytes_(AddGauge("skim_kv_cache_bytes", "Resident KV cache")) {
  for (size_t i = 0; i < prefill_time_by_mode_.size(); ++i) {
    const auto mode = static_cast<PrefillMode>(i);
    prefill_time_by_mode_[i] =
        &prefill_time_.Add({{"prefill", PrefillModeName(mode)}}, kFirstTokenSeconds);
  }
  for (size_t i = 0; i < finished_by_reason_.size(); ++i) {
    const auto reason = static_cast<v1::FinishReason>(i);
    finished_by_reason_[i] = &finished_.Add({{"reason", ReasonName(reason)}});
  }
  for (size_t i = 0; i < rows_by_format_.size(); ++i) {
    const auto format = static_cast<WeightFormat>(i);
    rows_by_format_[i] = &format_rows_.Add({{"format", std::string(WeightFormatName(format))}});
  }
  AddSpeculation();
}

void Metrics::AddSpeculation() {
  const auto family = [&](const char* name, const char* help) -> auto& {
    return prometheus::BuildCounter().Name(name).Help(help).Register(*registry_);
  };
  auto& rounds =
      family("skim_speculation_rounds_total", "Steps of a sequence that verified drafts");
  auto& drafted = family("skim_draft_tokens_total", "Drafts verified, by where they came from");
  auto& accepted = family("skim_draft_tokens_accepted_total", "Of those, part of the output");
  for (size_t i = 0; i < kDraftSources; ++i) {
    const std::string name(SourceName(i));
    rounds_[i] = &rounds.Add({{"drafter", name}});
    drafted_[i] = &drafted.Add({{"drafter", name}});
    accepted_[i] = &accepted.Add({{"drafter", name}});
  }
  auto& drafted_at =
      family("skim_draft_tokens_by_position_total", "Drafts verified, by place in their round");
  auto& accepted_at =
      family("skim_draft_tokens_accepted_by_position_total", "Of those, part of the output");
  for (int i = 0; i < kMaxDrafts; ++i) {
    drafted_at_[i] = &drafted_at.Add({{"position", std::to_string(i + 1)}});
    accepted_at_[i] = &accepted_at.Add({{"position", std::to_string(i + 1)}});
  }
}

void Metrics::OnStep(const StepStats& stats) {
  if (stats.draft_rows > 0) {
    draft_pass_duration_.Observe(Seconds(stats.duration));
  } else {
    step_duration_.Observe(Seconds(stats.duration));
    step_rows_.Observe(stats.rows);
  }
  prefill_rows_.Increment(stats.prefill_rows);
  decode_rows_.Increment(stats.decode_rows);
  draft_rows_.Increment(stats.draft_rows);
  catch_up_rows_.Increment(stats.catch_up_rows);
  verify_rows_.Increment(stats.verify_rows);
  for (size_t i = 0; i < rows_by_format_.size(); ++i) {
    rows_by_format_[i]->Increment(stats.rows_by_format[i]);
  }
  graph_launches_.Increment(static_cast<double>(stats.replays));
  preemptions_.Increment(stats.preempted);
  prefix_queries_.Increment(static_cast<double>(stats.prefix_queries));
  prefix_hits_.Increment(static_cast<double>(stats.prefix_hits));
  answer_lookups_.Increment(static_cast<double>(stats.answer_lookups));
  answer_hits_.Increment(static_cast<double>(stats.answer_hits));
}

void Metrics::OnState(const LoopState& state) {
  running_.Set(state.running);
  waiting_.Set(state.waiting);
  waiting_tokens_.Set(static_cast<double>(state.waiting_tokens));
  answer_bytes_.Set(static_cast<double>(state.answer_bytes));
  answer_owners_.Set(state.answer_owners);
  const int32_t total = state.kv_pages_total;
  kv_usage_.Set(total > 0 ? static_cast<double>(state.kv_pages_owned) / total : 0);
  kv_pages_free_.Set(total - state.kv_pages_owned - state.kv_pages_cached);
  kv_pages_cached_.Set(state.kv_pages_cached);
  kv_pages_owned_.Set(state.kv_pages_owned);
}

void Metrics::OnFirstToken(Micros time_to_first_token, PrefillMode mode) {
  time_to_first_token_.Observe(Seconds(time_to_first_token));
  prefill_time_by_mode_[static_cast<size_t>(mode)]->Observe(Seconds(time_to_first_token));
  generation_tokens_.Increment();
}

void Metrics::OnTokens(int32_t tokens, Micros since_last) {
  inter_token_latency_.Observe(Seconds(since_last));
  generation_tokens_.Increment(tokens);
}

void Metrics::OnFinish(const Finish& finish) {
  if (finish.finished != kNever && finish.submitted != kNever) {
    request_latency_.Observe(Seconds(finish.finished - finish.submitted));
  }
  if (finish.scheduled == kNever) return;
  queue_time_.Observe(Seconds(finish.scheduled - finish.submitted));
  prompt_tokens_.Increment(finish.prompt_tokens);
  cached_prompt_tokens_.Increment(finish.cached_tokens);
  const SpeculationReport& speculation = finish.speculation;
  for (size_t source = 0; source < kDraftSources; ++source) {
    const DraftCounts& counts = speculation.by_source[source];
    rounds_[source]->Increment(counts.rounds);
    drafted_[source]->Increment(counts.drafted);
    accepted_[source]->Increment(counts.accepted);
  }
  for (int i = 0; i < kMaxDrafts; ++i) {
    drafted_at_[i]->Increment(speculation.drafted_at[i]);
    accepted_at_[i]->Increment(speculation.accepted_at[i]);
  }
  const PrefillReport& prefill = finish.prefill;
  if (prefill.mode != PrefillMode::kLazy) return;
  pruned_requests_.Increment();
  pruned_kept_.Increment(prefill.kept_tokens);
  pruned_predicted_.Increment(prefill.predicted_tokens);
  pruned_revived_.Increment(prefill.revived_tokens);
  pruned_layers_.Increment(static_cast<double>(prefill.token_layers_saved));
  if (prefill.hidden_dropped) revival_stopped_.Increment();
}

void Metrics::OnOutcome(v1::FinishReason reason) {
  finished_by_reason_[static_cast<size_t>(reason)]->Increment();
}

void Metrics::OnRefused(absl::StatusCode code) {
  refused_.Add({{"code", absl::StatusCodeToString(code)}}).Increment();
}

void Metrics::SetModel(const std::string& name, const ModelInfo& model) {
  prometheus::BuildGauge()
      .Name("skim_build_info")
      .Help("Always 1; the labels say what runs")
      .Register(*registry_)
      .Add({{"version", kVersion},
            {"model_name", name},
            {"backend", model.backend},
            {"kv_format", std::string(KvFormatName(model.kv_format))}})
      .Set(1);
  auto& format_bytes =
      prometheus::BuildGauge()
          .Name("skim_weight_bytes")
          .Help("Resident weights of each format; common: embedding, norms and biases")
          .Register(*registry_);
  format_bytes.Add({{"format", "common"}}).Set(static_cast<double>(model.common_weight_bytes));
  if (model.draft_head_bytes > 0) {
    format_bytes.Add({{"format", "head"}}).Set(static_cast<double>(model.draft_head_bytes));
  }
  if (model.exit_adapter_bytes > 0) {
    format_bytes.Add({{"format", "exit-adapters"}})
        .Set(static_cast<double>(model.exit_adapter_bytes));
  }
  if (model.draft_model_bytes > 0) {
    format_bytes.Add({{"format", "draft-model"}}).Set(static_cast<double>(model.draft_model_bytes));
  }
  for (const FormatInfo& weights : model.weights) {
    format_bytes.Add({{"format", std::string(WeightFormatName(weights.format))}})
        .Set(static_cast<double>(weights.bytes));
  }
  weight_bytes_.Set(static_cast<double>(model.weight_bytes));
  kv_cache_bytes_.Set(static_cast<double>(model.kv_cache_bytes));
}

void Metrics::SetKvCache(int32_t page_tokens, int64_t tokens) {
  prometheus::BuildGauge()
      .Name("skim_kv_cache_config_info")
      .Help("Always 1; the labels say how many tokens a block holds, and how many blocks there are")
      .Register(*registry_)
      .Add({{"block_size", std::to_string(page_tokens)},
            {"num_blocks", std::to_string(tokens / page_tokens)}})
      .Set(1);
}

prometheus::Counter& Metrics::AddCounter(const char* name, const char* help) {
  return prometheus::BuildCounter().Name(name).Help(help).Register(*registry_).Add({});
}

prometheus::Gauge& Metrics::AddGauge(const char* name, const char* help) {
  return prometheus::BuildGauge().Name(name).Help(help).Register(*registry_).Add({});
}

prometheus::Histogram& Metrics::AddHistogram(const char* name, const char* help,
                                             const Buckets& buckets) {
  return prometheus::BuildHistogram().Name(name).Help(help).Register(*registry_).Add({}, buckets);
}

}  // namespace skim
