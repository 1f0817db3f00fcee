// The load generator over a real socket, against a service that misbehaves on purpose.
#include "loadtest/load_runner.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <thread>

#include "loadtest/load_report.h"
#include "loadtest/workload.h"
#include "tests/loadtest/fake_inference.h"

namespace skim {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;
using testing::Pair;
using Writer = FakeInference::Writer;

std::unique_ptr<Connection> Connect(const FakeInference& fake,
                                    grpc::ChannelArguments arguments = {}) {
  ConnectionOptions options;
  options.server = fake.address();
  options.timeout_s = 60;
  return *Connection::Open(options, arguments);
}

WorkloadOptions SmallRequests() {
  WorkloadOptions options;
  options.prompt_tokens = *LengthDistribution::Parse("uniform:1:20");
  options.output_tokens = *LengthDistribution::Parse("uniform:1:12");
  options.vocabulary = FakeInference::kVocabulary;
  options.max_context = FakeInference::kMaxContext;
  options.read_delay = 1000;
  return options;
}

std::vector<StreamRecord> RunLoad(const FakeInference& fake, const LoadOptions& load,
                                  const WorkloadOptions& options = SmallRequests()) {
  const SteadyClock clock;
  const auto connection = Connect(fake);
  const auto slow = Connect(fake, SlowReaderChannel());
  Workload workload = *Workload::Make(options);
  const std::atomic<bool> stop = false;
  LoadRunner runner(connection.get(), slow.get(), &clock);
  return runner.Run(
      load, [&] { return workload.Next(); }, stop, [](const LoadProgress&) {});
}

LoadOptions Closed(int64_t requests, int64_t concurrency) {
  LoadOptions load;
  load.requests = requests;
  load.concurrency = concurrency;
  return load;
}

TEST(LoadRunner, FindsNoFaultInAnHonestService) {
  const FakeInference fake;
  const LoadReport report = MakeReport(RunLoad(fake, Closed(200, 16)));
  EXPECT_TRUE(report.Clean()) << ToTable(report);
  EXPECT_EQ(report.finished, 200);
  EXPECT_THAT(report.errors, IsEmpty());
  EXPECT_EQ(report.ttft_ms.count(), 200u);
  EXPECT_EQ(static_cast<int64_t>(report.inter_token_ms.count()), report.generated_tokens - 200);
  EXPECT_EQ(report.queue_ms.Median(), 1.5);
}

TEST(LoadRunner, ClosedLoopKeepsExactlyItsConcurrencyInFlight) {
  // The first are held until twelve are there.
  std::atomic<int> waiting = 0;
  const FakeInference fake([&](auto& request, auto* context, auto* writer) {
    ++waiting;
    while (waiting < 12 && !context->IsCancelled()) {
      std::this_thread::sleep_for(std::chrono::milliseconds(2));
    }
    return FakeInference::Honest(request, context, writer);
  });
  const auto records = RunLoad(fake, Closed(60, 12));
  EXPECT_EQ(records.size(), 60u);
  EXPECT_EQ(fake.most_at_once(), 12);
}

TEST(LoadRunner, OpenLoopDoesNotWaitForASlowService) {
  // Nobody is answered before everybody has asked: a closed loop would never get there.
  std::atomic<int> waiting = 0;
  const FakeInference fake([&](auto& request, auto* context, auto* writer) {
    ++waiting;
    while (waiting < 40 && !context->IsCancelled()) {
      std::this_thread::sleep_for(std::chrono::milliseconds(2));
    }
    return FakeInference::Honest(request, context, writer);
  });
  LoadOptions load;
  load.rate_per_s = 400;
  load.requests = 40;
  const LoadReport report = MakeReport(RunLoad(fake, load));
  EXPECT_EQ(report.finished, 40) << ToTable(report);
  EXPECT_EQ(fake.most_at_once(), 40);
}

TEST(LoadRunner, CarriesHundredsOfStreamsAtOnce) {
  std::atomic<int> waiting = 0;
  const FakeInference fake([&](auto& request, auto* context, auto* writer) {
    ++waiting;
    while (waiting < 300 && !context->IsCancelled()) {
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
    }
    return FakeInference::Honest(request, context, writer);
  });
  const LoadReport report = MakeReport(RunLoad(fake, Closed(300, 300)));
  EXPECT_EQ(report.finished, 300) << ToTable(report);
}

// Runs 20 requests of 8 tokens against `script`; the report's faults.
std::map<std::string, int64_t> FaultsOf(FakeInference::Script script) {
  const FakeInference fake(std::move(script));
  WorkloadOptions options = SmallRequests();
  options.output_tokens = *LengthDistribution::Parse("8");
  const LoadReport report = MakeReport(RunLoad(fake, Closed(20, 4), options));
  EXPECT_FALSE(report.Clean());
  EXPECT_EQ(report.failed, 20);
  EXPECT_THAT(report.examples, testing::SizeIs(10));
  return report.faults;
}

TEST(LoadRunner, ReportsADroppedToken) {
  EXPECT_THAT(FaultsOf([](auto& request, auto*, Writer* writer) {
                for (uint32_t i = 0; i < 8; ++i) {
                  if (i != 3) writer->Write(FakeInference::Token(i));
                }
                writer->Write(FakeInference::Final(request));
                return grpc::Status::OK;
              }),
              ElementsAre(Pair("missing_tokens", 20)));
}

TEST(LoadRunner, ReportsARepeatedToken) {
  EXPECT_THAT(FaultsOf([](auto& request, auto*, Writer* writer) {
                for (uint32_t i = 0; i < 8; ++i) {
                  writer->Write(FakeInference::Token(i));
                  if (i == 3) writer->Write(FakeInference::Token(i));
                }
                writer->Write(FakeInference::Final(request));
                return grpc::Status::OK;
              }),
              ElementsAre(Pair("duplicate_tokens", 20)));
}

TEST(LoadRunner, ReportsTwoFinals) {
  EXPECT_THAT(FaultsOf([](auto& request, auto* context, Writer* writer) {
                const grpc::Status status = FakeInference::Honest(request, context, writer);
                writer->Write(FakeInference::Final(request));
                return status;
              }),
              ElementsAre(Pair("several_finals", 20)));
}

TEST(LoadRunner, ReportsAStreamThatEndsWithoutAFinal) {
  EXPECT_THAT(FaultsOf([](auto&, auto*, Writer* writer) {
                writer->Write(FakeInference::Token(1));
                return grpc::Status::OK;
              }),
              ElementsAre(Pair("no_final", 20)));
}

TEST(LoadRunner, ReportsAnErrorInMidStream) {
  EXPECT_THAT(FaultsOf([](auto&, auto*, Writer* writer) {
                writer->Write(FakeInference::Token(1));
                return grpc::Status(grpc::StatusCode::INTERNAL, "device fault");
              }),
              ElementsAre(Pair("unexpected_status", 20)));
}

TEST(LoadRunner, ReportsMalformedRequestsThatAreServed) {
  const FakeInference fake;
  WorkloadOptions options = SmallRequests();
  options.malformed_share = 1;
  const LoadReport report = MakeReport(RunLoad(fake, Closed(60, 8), options));
  EXPECT_EQ(report.failed, 60) << ToTable(report);
  EXPECT_EQ(report.faults.at("accepted_malformed"), 60);
}

TEST(LoadRunner, CountsRefusalsByCodeWithoutCallingThemFaults) {
  const FakeInference fake([](auto&, auto*, auto*) {
    return grpc::Status(grpc::StatusCode::RESOURCE_EXHAUSTED, "queue full");
  });
  const LoadReport report = MakeReport(RunLoad(fake, Closed(10, 2)));
  EXPECT_THAT(report.errors, ElementsAre(Pair("RESOURCE_EXHAUSTED", 10)));
  EXPECT_THAT(report.faults, IsEmpty());
  EXPECT_EQ(report.failed, 10);
}

TEST(LoadRunner, CancelsAndReadsSlowlyAsPlanned) {
  // Never ends by itself, so that only a real cancellation can end those streams.
  const FakeInference fake([](auto& request, auto* context, Writer* writer) {
    if (request.sampling().max_tokens() < 1000) {
      return FakeInference::Honest(request, context, writer);
    }
    while (writer->Write(FakeInference::Token(1)) && !context->IsCancelled()) {
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    return grpc::Status::CANCELLED;
  });
  WorkloadOptions endless = SmallRequests();
  endless.cancel_share = 1;
  endless.output_tokens = *LengthDistribution::Parse("2000");
  const LoadReport cancelled = MakeReport(RunLoad(fake, Closed(40, 10), endless));
  EXPECT_EQ(cancelled.cancelled, 40) << ToTable(cancelled);
  EXPECT_TRUE(cancelled.Clean());

  WorkloadOptions slow = SmallRequests();
  slow.slow_share = 1;
  slow.output_tokens = *LengthDistribution::Parse("5");
  slow.read_delay = 10'000;
  const auto records = RunLoad(fake, Closed(10, 10), slow);
  EXPECT_TRUE(MakeReport(records).Clean());
  // Five tokens and the final message, a pause before each but the first.
  for (const auto& record : records) EXPECT_GE(record.ended - record.started, 50'000);
}

TEST(LoadRunner, StopsStartingAfterItsDurationInBothLoops) {
  const FakeInference fake;
  for (const double rate : {0.0, 200.0}) {
    LoadOptions load;
    load.duration_s = 0.3;
    load.rate_per_s = rate;
    load.concurrency = rate > 0 ? 0 : 2;
    const LoadReport report = MakeReport(RunLoad(fake, load));
    EXPECT_TRUE(report.Clean()) << ToTable(report);
    EXPECT_GT(report.finished, 0);
  }
}

TEST(LoadRunner, StopsStartingWhenToldAndStillWaitsForAll) {
  const FakeInference fake;
  const SteadyClock clock;
  const auto connection = Connect(fake);
  Workload workload = *Workload::Make(SmallRequests());
  std::atomic<bool> stop = false;
  int made = 0;
  LoadRunner runner(connection.get(), connection.get(), &clock);
  LoadOptions load = Closed(1'000'000, 4);
  const auto records = runner.Run(
      load,
      [&] {
        if (++made == 50) stop = true;
        return workload.Next();
      },
      stop, [](const LoadProgress&) {});
  EXPECT_EQ(records.size(), 50u);
}

}  // namespace
}  // namespace skim
