// What users get from skimd with the default model.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <thread>

#include "base/clock.h"
#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"
#include "loadtest/load_report.h"
#include "loadtest/load_runner.h"
#include "loadtest/malformed.h"
#include "loadtest/metrics_scrape.h"
#include "loadtest/workload.h"
#include "tests/e2e/real_daemon.h"

namespace skim {
namespace {

using testing::HasSubstr;

class Serving : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    // It drafts for itself: in int8 it mostly says the same.
    daemon_ = StartDaemon("256MiB", {"--weights", "bf16,int8", "--draft-model", DefaultModelDir()});
    ASSERT_NE(daemon_, nullptr);
    connection_ = Connect(*daemon_);
    grpc::ClientContext context;
    ASSERT_TRUE(connection_->stub().GetModel(&context, {}, &model_).ok());
  }
  static void TearDownTestSuite() {
    connection_.reset();
    daemon_.reset();
  }
  void SetUp() override { ASSERT_NE(connection_, nullptr); }

  static inline std::unique_ptr<DaemonProcess> daemon_;
  static inline std::unique_ptr<Connection> connection_;
  static inline v1::GetModelResponse model_;
};

TEST_F(Serving, TellsWhatItServes) {
  EXPECT_EQ(model_.architecture(), "llama");
  EXPECT_EQ(model_.layers(), 30u);
  EXPECT_EQ(model_.hidden_size(), 576u);
  EXPECT_EQ(model_.vocabulary(), 49152u);
  EXPECT_NEAR(static_cast<double>(model_.parameters()), 134.5e6, 0.1e6);
  EXPECT_TRUE(model_.has_chat_template());
  EXPECT_THAT(model_.weight_formats(),
              testing::ElementsAre(v1::WEIGHT_FORMAT_BF16, v1::WEIGHT_FORMAT_INT8));
}

TEST_F(Serving, StreamsAnAnswerThatMakesSense) {
  const Reply reply = Generate(*connection_, Continue("The capital of France is", 8));
  ASSERT_TRUE(reply.status.ok()) << reply.status.error_message();
  EXPECT_THAT(reply.text, HasSubstr("Paris"));
  EXPECT_EQ(reply.token_ids.size(), 8u);
  ASSERT_EQ(reply.finals.size(), 1u);
  EXPECT_EQ(reply.finals[0].finish_reason(), v1::FINISH_REASON_LENGTH);
  EXPECT_EQ(reply.finals[0].usage().generated_tokens(), 8u);
}

TEST_F(Serving, AnswersAChat) {
  v1::GenerateRequest request;
  v1::Message* message = request.mutable_chat()->add_messages();
  message->set_role("user");
  message->set_content("What is the capital of France?");
  request.mutable_sampling()->set_temperature(0);
  request.mutable_sampling()->set_max_tokens(64);
  const Reply reply = Generate(*connection_, request);
  ASSERT_TRUE(reply.status.ok()) << reply.status.error_message();
  EXPECT_THAT(reply.text, HasSubstr("Paris"));
  EXPECT_EQ(reply.finals.at(0).finish_reason(), v1::FINISH_REASON_STOP);
}

TEST_F(Serving, TextIsWhatDetokenizeMakesOfTheIds) {
  const Reply reply = Generate(*connection_, Continue("日本語で書くと: 😀 ", 40));
  ASSERT_TRUE(reply.status.ok()) << reply.status.error_message();
  v1::DetokenizeRequest request;
  request.mutable_ids()->Add(reply.token_ids.begin(), reply.token_ids.end());
  v1::DetokenizeResponse response;
  grpc::ClientContext context;
  ASSERT_TRUE(connection_->stub().Detokenize(&context, request, &response).ok());
  EXPECT_EQ(reply.text, response.text());
}

TEST_F(Serving, ARequestGetsTheSameTokensAloneAndAmongOthersWhateverTheirWeights) {
  for (const v1::WeightFormat weights : {v1::WEIGHT_FORMAT_BF16, v1::WEIGHT_FORMAT_INT8}) {
    v1::GenerateRequest request = Continue("In the beginning the sea was", 32);
    request.set_weights(weights);
    const Reply alone = Generate(*connection_, request);
    ASSERT_TRUE(alone.status.ok()) << alone.status.error_message();
    EXPECT_EQ(alone.finals.at(0).weights(), weights);
    std::vector<std::thread> others;
    std::atomic<int> finished = 0;
    for (int i = 0; i < 15; ++i) {
      others.emplace_back([&, i] {
        const std::string text = "Number " + std::to_string(i * 7919) + " is a number that";
        v1::GenerateRequest other = Continue(text, 20 + static_cast<uint32_t>(i));
        other.set_weights(i % 2 == 0 ? v1::WEIGHT_FORMAT_BF16 : v1::WEIGHT_FORMAT_INT8);
        finished += Generate(*connection_, other).status.ok();
      });
    }
    const Reply among = Generate(*connection_, request);
    for (std::thread& other : others) other.join();
    EXPECT_EQ(finished, 15);
    EXPECT_EQ(among.token_ids, alone.token_ids);
    EXPECT_EQ(among.text, alone.text);
  }
}

TEST_F(Serving, ADraftModelGuessesTheTextOfTheModel) {
  v1::GenerateRequest request =
      Continue("To make a cup of tea, first boil the water. Then put a tea bag into", 60);
  const Reply plain = Generate(*connection_, request);
  ASSERT_TRUE(plain.status.ok()) << plain.status.error_message();
  request.mutable_speculation()->mutable_draft_model();
  const Reply reply = Generate(*connection_, request);
  ASSERT_TRUE(reply.status.ok()) << reply.status.error_message();
  EXPECT_EQ(reply.token_ids, plain.token_ids);
  ASSERT_EQ(reply.finals.size(), 1u);
  const v1::SpeculationOutcome& told = reply.finals[0].speculation();
  ASSERT_EQ(told.sources_size(), 1);
  EXPECT_EQ(told.sources(0).drafter(), v1::SpeculationOutcome::DRAFTER_DRAFT_MODEL);
  EXPECT_GT(told.sources(0).draft_tokens(), 30u);
  EXPECT_GT(told.sources(0).accepted_tokens(), told.sources(0).draft_tokens() / 2);
  EXPECT_EQ(PagesWhenIdle(*daemon_).owned, 0);
}

TEST_F(Serving, CancellingGivesThePagesBack) {
  grpc::ClientContext context;
  const auto reader = connection_->stub().Generate(&context, Continue("Count: 1, 2, 3,", 4000));
  v1::GenerateResponse response;
  ASSERT_TRUE(reader->Read(&response));
  context.TryCancel();
  while (reader->Read(&response)) {
  }
  EXPECT_EQ(reader->Finish().error_code(), grpc::StatusCode::CANCELLED);
  EXPECT_EQ(PagesWhenIdle(*daemon_).owned, 0);
}

bool NamesAField(const grpc::Status& status) {
  google::rpc::Status rich;
  google::rpc::BadRequest bad;
  return rich.ParseFromString(status.error_details()) && rich.details_size() > 0 &&
         rich.details(0).UnpackTo(&bad) && bad.field_violations_size() > 0 &&
         !bad.field_violations(0).field().empty();
}

TEST_F(Serving, RefusesEveryKindOfMalformedRequestByFieldAndDisturbsNobody) {
  std::atomic<bool> stop = false;
  std::atomic<int> disturbed = 0;
  std::thread neighbour([&] {
    const v1::GenerateRequest request = Continue("The neighbour says:", 16);
    const Reply first = Generate(*connection_, request);
    do {
      const Reply reply = Generate(*connection_, request);
      disturbed +=
          !reply.status.ok() || reply.token_ids != first.token_ids || reply.token_ids.size() != 16;
    } while (!stop);
  });
  for (size_t kind = 0; kind < MalformedKinds(); ++kind) {
    v1::GenerateRequest request = Continue("", 4);
    for (uint32_t id = 100; id < 110; ++id) request.mutable_token_ids()->add_ids(id);
    BreakRequest(kind, model_.vocabulary(), model_.max_context(), &request);
    const Reply reply = Generate(*connection_, request);
    const grpc::StatusCode code = reply.status.error_code();
    EXPECT_TRUE(code == grpc::StatusCode::INVALID_ARGUMENT ||
                code == grpc::StatusCode::OUT_OF_RANGE || code == grpc::StatusCode::UNIMPLEMENTED ||
                code == grpc::StatusCode::NOT_FOUND)
        << "kind " << kind << " ended with " << code << ": " << reply.status.error_message();
    EXPECT_TRUE(NamesAField(reply.status))
        << "kind " << kind << ": " << reply.status.error_message();
    EXPECT_TRUE(reply.finals.empty());
  }
  stop = true;
  neighbour.join();
  EXPECT_EQ(disturbed, 0);
}

// Its own daemon with little memory for keys and values: sequences are preempted, and every
// page is touched in the first round, so that memory cannot grow for a good reason later.
TEST(Storm, SixtyFourStreamsOfEveryKindEndOnceAndLeaveNothingBehind) {
  const auto daemon = StartDaemon("32MiB", {"--weights", "bf16,int8"});
  ASSERT_NE(daemon, nullptr);
  const auto connection = Connect(*daemon);
  ConnectionOptions slow_options;
  slow_options.server = daemon->grpc_address();
  const auto slow = *Connection::Open(slow_options, SlowReaderChannel());
  ASSERT_TRUE(Generate(*connection, Continue("Warm up", 4)).status.ok());
  const double total_pages = PagesWhenIdle(*daemon).Total();
  ASSERT_GT(total_pages, 0);

  WorkloadOptions options;
  options.prompt_tokens = *LengthDistribution::Parse("uniform:8:48");
  options.output_tokens = *LengthDistribution::Parse("uniform:1:24");
  options.cancel_share = 0.3;
  options.slow_share = 0.1;
  options.malformed_share = 0.1;
  options.read_delay = 50'000;
  options.vocabulary = 49152;
  options.weights = {v1::WEIGHT_FORMAT_BF16, v1::WEIGHT_FORMAT_INT8};
  options.max_context = 8192;  // what is longer must be refused
  const SteadyClock clock;
  const std::atomic<bool> never = false;
  int64_t resident_after_first = 0;
  for (uint64_t round = 0; round < 3; ++round) {
    options.seed = 100 + round;
    Workload workload = *Workload::Make(options);
    LoadOptions load;
    load.requests = 2 * 64;
    load.concurrency = 64;
    LoadRunner runner(connection.get(), slow.get(), &clock);
    const auto records = runner.Run(
        load, [&] { return workload.Next(); }, never, [](const LoadProgress&) {});
    const LoadReport report = MakeReport(records);
    EXPECT_EQ(report.requests, load.requests);
    EXPECT_EQ(report.finished + report.cancelled + report.refused + report.slow, report.requests);
    EXPECT_TRUE(report.Clean()) << "seed " << options.seed << "\n" << ToTable(report);

    const PageCounts pages = PagesWhenIdle(*daemon);
    EXPECT_EQ(pages.free + pages.cached, total_pages) << "round " << round;
    const int64_t resident = *daemon->ResidentBytes();
    if (round == 0) resident_after_first = resident;
    EXPECT_LE(resident, resident_after_first + (24 << 20)) << "round " << round;
  }
  EXPECT_GT(ScrapeMetrics(daemon->metrics_address())->at("skim_preemptions_total"), 0);
  EXPECT_EQ(*daemon->Stop(kLong), 0);
}

}  // namespace
}  // namespace skim
