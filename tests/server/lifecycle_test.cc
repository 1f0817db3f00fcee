// From listening over serving to the end of a drain, as clients and probes see it.
#include <gtest/gtest.h>

#include <chrono>
#include <future>
#include <thread>

#include "grpc/health/v1/health.grpc.pb.h"
#include "tests/server/test_server.h"

namespace skim {
namespace {

using grpc::StatusCode;
using grpc::health::v1::Health;
using grpc::health::v1::HealthCheckRequest;
using grpc::health::v1::HealthCheckResponse;

constexpr char kService[] = "skim.v1.Inference";
constexpr Micros kMinute = 60'000'000;

HealthCheckResponse::ServingStatus Check(const TestServer& server, const std::string& name) {
  grpc::ClientContext context;
  HealthCheckRequest request;
  request.set_service(name);
  HealthCheckResponse response;
  const auto stub = Health::NewStub(server.NewChannel());
  const grpc::Status status = stub->Check(&context, request, &response);
  EXPECT_TRUE(status.ok()) << name << ": " << status.error_message();
  return response.status();
}

// A stream that has begun and whose engine then waits.
struct HeldStream {
  explicit HeldStream(TestServer* server) {
    server->engine().PauseAfter(1);
    reader = server->stub().Generate(&context, TextRequest("held"));
    v1::GenerateResponse response;
    EXPECT_TRUE(reader->Read(&response));
    outcome.Add(response);
  }
  void Finish() {
    for (v1::GenerateResponse response; reader->Read(&response);) outcome.Add(response);
    outcome.status = reader->Finish();
  }

  grpc::ClientContext context;
  std::unique_ptr<grpc::ClientReader<v1::GenerateResponse>> reader;
  Outcome outcome;
};

TEST(Lifecycle, SaysNotServingAndUnavailableWhileLoading) {
  TestServerOptions options;
  options.serve = false;
  TestServer server(options);
  EXPECT_EQ(Check(server, ""), HealthCheckResponse::NOT_SERVING);
  EXPECT_EQ(Check(server, kService), HealthCheckResponse::NOT_SERVING);
  EXPECT_EQ(Check(server, "liveness"), HealthCheckResponse::SERVING);
  EXPECT_EQ(server.Generate(TextRequest("early")).status.error_code(), StatusCode::UNAVAILABLE);
  grpc::ClientContext context;
  v1::GetModelResponse model;
  EXPECT_EQ(server.stub().GetModel(&context, {}, &model).error_code(), StatusCode::UNAVAILABLE);

  server.Serve();
  EXPECT_EQ(Check(server, ""), HealthCheckResponse::SERVING);
  EXPECT_EQ(Check(server, kService), HealthCheckResponse::SERVING);
  EXPECT_EQ(server.Generate(TextRequest("now")).only().text, "now");
}

TEST(Lifecycle, TellsHealthWatchersOfEveryChange) {
  TestServerOptions options;
  options.serve = false;
  TestServer server(options);
  grpc::ClientContext context;
  HealthCheckRequest request;
  request.set_service(kService);
  const auto stub = Health::NewStub(server.NewChannel());
  const auto watch = stub->Watch(&context, request);
  HealthCheckResponse response;
  ASSERT_TRUE(watch->Read(&response));
  EXPECT_EQ(response.status(), HealthCheckResponse::NOT_SERVING);
  server.Serve();
  ASSERT_TRUE(watch->Read(&response));
  EXPECT_EQ(response.status(), HealthCheckResponse::SERVING);
  auto drained = std::async(std::launch::async, [&] { server.stack().Drain(0); });
  ASSERT_TRUE(watch->Read(&response));
  EXPECT_EQ(response.status(), HealthCheckResponse::NOT_SERVING);
  context.TryCancel();
}

TEST(Lifecycle, LetsStreamsFinishWhileDrainingAndRefusesNewCalls) {
  TestServer server;
  HeldStream held(&server);
  auto drained = std::async(std::launch::async, [&] { server.stack().Drain(kMinute); });
  while (Check(server, kService) == HealthCheckResponse::SERVING) std::this_thread::yield();
  EXPECT_EQ(Check(server, ""), HealthCheckResponse::NOT_SERVING);
  EXPECT_EQ(Check(server, "liveness"), HealthCheckResponse::SERVING);
  EXPECT_EQ(server.Generate(TextRequest("late")).status.error_code(), StatusCode::UNAVAILABLE);
  EXPECT_EQ(drained.wait_for(std::chrono::seconds(0)), std::future_status::timeout);

  server.engine().Resume();
  held.Finish();
  EXPECT_TRUE(held.outcome.status.ok()) << held.outcome.status.error_message();
  EXPECT_EQ(held.outcome.only().text, "held");
  EXPECT_EQ(held.outcome.only().finals, 1);
  drained.wait();
}

TEST(Lifecycle, EndsStreamsWithUnavailableWhenTheDrainTakesTooLong) {
  TestServer server;
  server.engine().set_step_delay_us(500);
  grpc::ClientContext context;
  const auto reader = server.stub().Generate(&context, EndlessRequest("on and on", 500));
  v1::GenerateResponse response;
  ASSERT_TRUE(reader->Read(&response));
  auto drained = std::async(std::launch::async, [&] { server.stack().Drain(0); });
  Outcome outcome;
  while (reader->Read(&response)) outcome.Add(response);
  EXPECT_EQ(reader->Finish().error_code(), StatusCode::UNAVAILABLE);
  drained.wait();
  EXPECT_EQ(server.stack().active_calls(), 0u);
  EXPECT_EQ(server.stack().loop()->in_flight(), 0);
}

TEST(Lifecycle, EndsADrainThoughAClientDoesNotRead) {
  TestServerOptions options;
  options.scheduler.max_context = 8192;
  options.total_pages = 8192 / 16 * 4;
  TestServer server(options);
  grpc::ClientContext context;
  v1::GenerateRequest request = EndlessRequest("unread", 8000);
  // Large messages, so that the connection's window fills up.
  request.mutable_output()->set_logprobs(20);
  const auto reader = server.stub().Generate(&context, request);
  while (server.Metric("skim_generation_tokens_total") < 1500) std::this_thread::yield();
  server.stack().Drain(0);
  EXPECT_EQ(server.stack().active_calls(), 0u);
  for (v1::GenerateResponse response; reader->Read(&response);) continue;
  EXPECT_EQ(reader->Finish().error_code(), StatusCode::UNAVAILABLE);
}

TEST(Lifecycle, DrainsTwiceAsWellAsOnce) {
  TestServer server;
  EXPECT_EQ(server.Generate(TextRequest("one")).only().text, "one");
  server.stack().Drain(0);
  server.stack().Drain(0);
  EXPECT_FALSE(server.Generate(TextRequest("two")).status.ok());
}

TEST(Lifecycle, DoesNotShareAPortWithAnotherServer) {
  TestServer server;
  Metrics metrics;
  SteadyClock clock;
  spdlog::logger log("none");
  ServingStack::Options options;
  options.rpc.listen = server.stack().address();
  options.rpc.credentials = grpc::InsecureServerCredentials();
  const auto second = ServingStack::Start(options, &metrics, &clock, &log);
  ASSERT_FALSE(second.ok());
  EXPECT_NE(second.status().message().find("listen"), absl::string_view::npos);
}

}  // namespace
}  // namespace skim
