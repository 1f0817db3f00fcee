#include "server/metrics.h"

#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include "server/metric_aliases.h"
#include "server/metrics_exposer.h"
#include "server/tenant_usage.h"

namespace skim {
namespace {

std::string HttpGet(const ListenAddress& address, const std::string& path) {
  const int socket_fd = socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in target{};
  target.sin_family = AF_INET;
  target.sin_port = htons(address.port);
  inet_pton(AF_INET, address.host.c_str(), &target.sin_addr);
  EXPECT_EQ(connect(socket_fd, reinterpret_cast<sockaddr*>(&target), sizeof(target)), 0);
  const std::string request = "GET " + path + " HTTP/1.0\r\n\r\n";
  EXPECT_EQ(send(socket_fd, request.data(), request.size(), 0),
            static_cast<ssize_t>(request.size()));
  std::string response;
  char buffer[4096];
  for (ssize_t n = 0; (n = recv(socket_fd, buffer, sizeof(buffer), 0)) > 0;) {
    response.append(buffer, n);
  }
  close(socket_fd);
  return response;
}

TEST(Metrics, ShowsWhatTheLoopReportsOverHttp) {
  Metrics metrics;
  ModelInfo model;
  model.backend = "cpu";
  model.weights = {{WeightFormat::kBf16, 900}, {WeightFormat::kInt4, 100}};
  model.common_weight_bytes = 24;
  model.exit_adapter_bytes = 12;
  model.weight_bytes = 1024;
  model.kv_format = KvFormat::kInt8;
  metrics.SetModel("m", model);
  metrics.OnStep({.duration = 4000,
                  .rows = 12,
                  .prefill_rows = 7,
                  .decode_rows = 2,
                  .verify_rows = 3,
                  .rows_by_format = {9, 0, 0, 3},
                  .replays = 2,
                  .preempted = 1,
                  .prefix_queries = 100,
                  .prefix_hits = 64});
  metrics.OnStep({.duration = 2000, .rows = 2, .draft_rows = 2, .rows_by_format = {0, 0, 0, 2}});
  metrics.OnState({.running = 3,
                   .waiting = 2,
                   .waiting_tokens = 50,
                   .kv_pages_total = 40,
                   .kv_pages_owned = 10,
                   .kv_pages_cached = 5});
  metrics.OnFirstToken(7000, PrefillMode::kExact);
  metrics.OnTokens(1, 900);
  metrics.OnTokens(3, 2900);  // of one step
  metrics.OnFinish({.reason = FinishReason::kLength,
                    .status = {},
                    .prompt_tokens = 20,
                    .cached_tokens = 16,
                    .generated_tokens = 2,
                    .preemptions = 0,
                    .prefill = {.mode = PrefillMode::kLazy,
                                .segment_tokens = {},
                                .kept_tokens = 6,
                                .predicted_tokens = 9,
                                .revived_tokens = 3,
                                .token_layers_saved = 70},
                    .speculation = {.drafter = DrafterKind::kSelf,
                                    .by_source = {{{1, 2, 1, 0}, {}, {}, {3, 9, 7, 9}, {1, 3, 2, 3}}},
                                    .drafted_at = {5, 5},
                                    .accepted_at = {4, 3}},
                    .submitted = 1000,
                    .scheduled = 3000,
                    .first_token = 8000,
                    .finished = 9000});
  metrics.OnOutcome(v1::FINISH_REASON_LENGTH);
  metrics.OnRefused(absl::StatusCode::kInvalidArgument);

  const auto exposer = MetricsExposer::Start({"127.0.0.1", 0}, metrics);
  ASSERT_TRUE(exposer.ok()) << exposer.status();
  EXPECT_NE((*exposer)->address().port, 0);
  const std::string page = HttpGet((*exposer)->address(), "/metrics");
  for (const char* line : {
           "skim_time_to_first_token_seconds_bucket{le=\"0.0075\"} 1",
           "skim_prefill_time_to_first_token_seconds_bucket{prefill=\"exact\",le=\"0.0075\"} 1",
           "skim_prefill_time_to_first_token_seconds_count{prefill=\"lazy\"} 0",
           "skim_pruned_sequences_total 1",
           "skim_pruned_prompt_tokens_kept_total 6",
           "skim_pruned_prompt_tokens_predicted_total 9",
           "skim_pruned_prompt_tokens_revived_total 3",
           "skim_prompt_token_layers_saved_total 70",
           "skim_revival_stopped_total 0",
           "skim_verify_rows_total 3",
           "skim_draft_rows_total 2",
           "skim_draft_pass_duration_seconds_sum 0.002",
           "skim_speculation_rounds_total{drafter=\"lookup\"} 1",
           "skim_draft_tokens_total{drafter=\"self\"} 12",
           "skim_draft_tokens_accepted_total{drafter=\"self\"} 9",
           "skim_draft_tokens_by_position_total{position=\"2\"} 5",
           "skim_draft_tokens_accepted_by_position_total{position=\"2\"} 3",
           "skim_inter_token_latency_seconds_bucket{le=\"0.001\"} 1",
           "skim_inter_token_latency_seconds_bucket{le=\"0.0005\"} 0",
           "skim_inter_token_latency_seconds_count 2",
           "skim_e2e_request_latency_seconds_sum 0.008",
           "skim_request_queue_seconds_sum 0.002",
           "skim_prompt_tokens_total 20",
           "skim_prompt_tokens_cached_total 16",
           "skim_generation_tokens_total 5",
           "skim_requests_running 3",
           "skim_requests_waiting 2",
           "skim_kv_cache_usage_ratio 0.25",
           "skim_kv_pages{state=\"free\"} 25",
           "skim_kv_pages{state=\"cached\"} 5",
           "skim_kv_pages{state=\"owned\"} 10",
           "skim_prefix_cache_queries_total 100",
           "skim_prefix_cache_hits_total 64",
           "skim_cuda_graph_launches_total 2",
           "skim_preemptions_total 1",
           "skim_requests_finished_total{reason=\"length\"} 1",
           "skim_requests_finished_total{reason=\"stop\"} 0",
           "skim_requests_refused_total{code=\"INVALID_ARGUMENT\"} 1",
           "skim_step_duration_seconds_sum 0.004",
           "skim_step_rows_sum 12",  // a draft pass is no step
           "skim_model_weight_bytes 1024",
           "skim_weight_bytes{format=\"bf16\"} 900",
           "skim_weight_bytes{format=\"int4\"} 100",
           "skim_weight_bytes{format=\"common\"} 24",
           "skim_weight_bytes{format=\"exit-adapters\"} 12",
           "skim_rows_total{format=\"bf16\"} 9",
           "skim_rows_total{format=\"int4\"} 5",
           "skim_build_info{",
           "kv_format=\"int8\"",
       }) {
    EXPECT_NE(page.find(line), std::string::npos) << line << "\n" << page;
  }
}

TEST(Metrics, AreShownUnderTheNamesOfVllmAsWellWhereAsked) {
  Metrics metrics;
  metrics.OnState({.running = 3,
                   .waiting = 2,
                   .waiting_tokens = 50,
                   .kv_pages_total = 40,
                   .kv_pages_owned = 10,
                   .kv_pages_cached = 5});
  metrics.OnFirstToken(7000, PrefillMode::kExact);
  metrics.OnOutcome(v1::FINISH_REASON_CANCELLED);
  metrics.SetKvCache(/*page_tokens=*/32, /*tokens=*/3200);
  const auto exposer = MetricsExposer::Start({"127.0.0.1", 0}, metrics);
  ASSERT_TRUE(exposer.ok()) << exposer.status();
  EXPECT_EQ(HttpGet((*exposer)->address(), "/metrics").find("vllm:"), std::string::npos);
  const auto aliases = std::make_shared<MetricAliases>(metrics.registry(), "m");
  (*exposer)->Add(aliases);
  const std::string page = HttpGet((*exposer)->address(), "/metrics");
  for (const char* line : {
           "\nskim_requests_waiting 2\n",
           "# TYPE vllm:num_requests_waiting gauge",
           "vllm:num_requests_waiting{model_name=\"m\",engine=\"0\"} 2",
           "vllm:num_requests_running{model_name=\"m\",engine=\"0\"} 3",
           "vllm:cache_config_info{block_size=\"32\",num_gpu_blocks=\"100\",model_name=\"m\",",
           "vllm:kv_cache_usage_perc{model_name=\"m\",engine=\"0\"} 0.25",
           "vllm:generation_tokens_total{model_name=\"m\",engine=\"0\"} 1",
           "vllm:time_to_first_token_seconds_count{model_name=\"m\",engine=\"0\"} 1",
           "vllm:request_success_total{finished_reason=\"abort\",model_name=\"m\",engine=\"0\"} 1",
       }) {
    EXPECT_NE(page.find(line), std::string::npos) << line << "\n" << page;
  }
}

TEST(Metrics, GiveALabelToTheFirstTenantsAndCountTheOthersTogether) {
  Metrics metrics;
  TenantUsage tenants(metrics.registry().get(), 2);
  v1::Usage usage;
  usage.set_prompt_tokens(10);
  usage.set_generated_tokens(3);
  for (const char* tenant : {"a", "b", "c", "a", "d", "e"}) tenants.OnFinal(tenant, usage);
  const auto exposer = MetricsExposer::Start({"127.0.0.1", 0}, metrics);
  ASSERT_TRUE(exposer.ok()) << exposer.status();
  const std::string page = HttpGet((*exposer)->address(), "/metrics");
  for (const char* line : {
           "skim_tenant_choices_total{tenant=\"a\"} 2",
           "skim_tenant_prompt_tokens_total{tenant=\"b\"} 10",
           "skim_tenant_generation_tokens_total{tenant=\"other\"} 9",
       }) {
    EXPECT_NE(page.find(line), std::string::npos) << line << "\n" << page;
  }
  EXPECT_EQ(page.find("tenant=\"c\""), std::string::npos);
}

TEST(Metrics, NamesTheAddressThatCannotBeServed) {
  Metrics metrics;
  const auto first = MetricsExposer::Start({"127.0.0.1", 0}, metrics);
  ASSERT_TRUE(first.ok());
  const auto second = MetricsExposer::Start((*first)->address(), metrics);
  ASSERT_FALSE(second.ok());
  EXPECT_NE(second.status().message().find((*first)->address().ToString()),
            absl::string_view::npos);
  EXPECT_FALSE(MetricsExposer::Start({"no-such-host", 1}, metrics).ok());
}

}  // namespace
}  // namespace skim
