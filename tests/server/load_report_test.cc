// Load as balancers see it: what is measured, the trailer of a call, the stream of reports.
#include "server/load_report.h"

#include <gtest/gtest.h>

#include <chrono>

#include "tests/server/test_server.h"

namespace skim {
namespace {

using xds::data::orca::v3::OrcaLoadReport;
using xds::service::orca::v3::OpenRcaService;
using xds::service::orca::v3::OrcaLoadReportRequest;

class HandClock final : public Clock {
 public:
  Micros Now() const override { return now; }
  Micros now = 1'000'000'000;
};

constexpr Micros kSecond = 1'000'000;

TEST(RecentSum, ForgetsWhatIsOlderThanItsWindow) {
  RecentSum sum;
  const Micros start = 500 * kSecond;
  for (int i = 0; i < 25; ++i) sum.Add(start + i * kSecond, 1);
  EXPECT_EQ(sum.Sum(start + 24 * kSecond), RecentSum::kSeconds);
  EXPECT_EQ(sum.Sum(start + 29 * kSecond), RecentSum::kSeconds - 5);
  EXPECT_EQ(sum.Sum(start + 60 * kSecond), 0);
}

TEST(LoadMonitor, PassesOnWhatItHearsAndKeepsStateAndRates) {
  HandClock clock;
  Metrics metrics;
  LoadMonitor monitor(&metrics, &clock);
  SchedulerConfig scheduler;
  scheduler.max_running = 8;
  scheduler.max_waiting = 20;
  KvGeometry geometry;
  geometry.page_tokens = 32;
  geometry.total_pages = 90;
  geometry.segment_units = {2, 1};
  monitor.SetCapacity(scheduler, geometry);
  EXPECT_EQ(monitor.Read().Utilization(), 0);
  EXPECT_EQ(monitor.Read().kv_tokens_total, 30 * 32);

  LoopState state;
  state.running = 2;
  state.kv_pages_total = 90;
  state.kv_pages_owned = 45;
  monitor.OnState(state);
  monitor.OnFirstToken(1000, PrefillMode::kExact);
  for (int i = 0; i < 40; ++i) monitor.OnTokens(1, 1000);
  for (int i = 0; i < 3; ++i) monitor.OnTokens(3, 1000);
  StepStats step;
  step.prefix_queries = 100;
  step.prefix_hits = 25;
  monitor.OnStep(step);
  Finish finish;
  finish.reason = FinishReason::kStopToken;
  monitor.OnFinish(finish);
  finish.reason = FinishReason::kError;
  monitor.OnFinish(finish);
  Load load = monitor.Read();
  EXPECT_EQ(load.SlotUse(), 0.25);
  EXPECT_EQ(load.KvUse(), 0.5);
  EXPECT_EQ(load.Utilization(), 0.5);
  EXPECT_EQ(load.kv_tokens_owned, 15 * 32);
  EXPECT_EQ(load.generated_tokens_per_s, 5);
  EXPECT_EQ(load.finished_per_s, 0.2);
  EXPECT_EQ(load.failed_per_s, 0.1);
  EXPECT_EQ(load.cache_hit_ratio, 0.25);

  // Who has to wait makes it more than full, whatever is free.
  state.waiting = 5;
  monitor.OnState(state);
  EXPECT_EQ(monitor.Read().Utilization(), 1.25);
  clock.now += 60 * kSecond;
  load = monitor.Read();
  EXPECT_EQ(load.generated_tokens_per_s, 0);
  EXPECT_EQ(load.finished_per_s, 0);
}

TEST(LoadReport, StreamsToWhoeverAsksWithoutAToken) {
  TestServerOptions options;
  options.stack.auth = BearerAuth({"secret"});
  TestServer server(options);
  server.engine().PauseAfter(1);
  grpc::ClientContext call_context;
  const auto call = server.worker_stub().Generate(&call_context, [] {
    ::vllm::grpc::engine::GenerateRequest request;
    request.set_text("held");
    request.set_stream(true);
    return request;
  }());
  ::vllm::grpc::engine::GenerateResponse token;
  ASSERT_TRUE(call->Read(&token));

  const auto stub = OpenRcaService::NewStub(server.NewChannel());
  grpc::ClientContext context;
  OrcaLoadReportRequest request;
  request.mutable_report_interval()->set_nanos(1000);  // the least interval holds
  const auto begin = std::chrono::steady_clock::now();
  const auto reader = stub->StreamCoreMetrics(&context, request);
  OrcaLoadReport report;
  ASSERT_TRUE(reader->Read(&report));
  EXPECT_EQ(report.application_utilization(), 1.0 / 16);  // one of 16 slots
  ASSERT_TRUE(reader->Read(&report));
  EXPECT_GE(std::chrono::steady_clock::now() - begin,
            std::chrono::microseconds(kLeastReportInterval * 9 / 10));
  context.TryCancel();
  EXPECT_FALSE(reader->Finish().ok());
  server.engine().Resume();
  while (call->Read(&token)) {
  }
  EXPECT_TRUE(call->Finish().ok());
}

TEST(LoadReport, AnOpenStreamDoesNotHoldUpAShutdown) {
  TestServer server;
  const auto stub = OpenRcaService::NewStub(server.NewChannel());
  grpc::ClientContext context;
  OrcaLoadReportRequest request;
  request.mutable_report_interval()->set_seconds(3600);
  const auto reader = stub->StreamCoreMetrics(&context, request);
  OrcaLoadReport report;
  ASSERT_TRUE(reader->Read(&report));
  server.stack().Drain(60'000'000);
  EXPECT_FALSE(reader->Read(&report));
}

}  // namespace
}  // namespace skim
