// Savings by name: behind the model's name where a protocol has one, and per port for gateways.
#include "server/savings.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/server/test_server.h"

namespace skim {
namespace {

using grpc::StatusCode;
using testing::HasSubstr;

class SavingsTest : public testing::Test {
 protected:
  static TestServerOptions Options() {
    TestServerOptions options;
    options.prunes = true;
    options.limits.min_lazy_tokens = 20;
    options.savings = "fast+int8";
    return options;
  }
  // Another one each time: what is cached leaves too little to prune.
  std::string Prompt() { return std::string(200, next_++); }

  Outcome Ask(const std::string& model) {
    v1::GenerateRequest request = TextRequest(Prompt());
    request.set_model(model);
    return server_.Generate(request);
  }

  TestServer server_{Options()};
  char next_ = 'a';
};

TEST_F(SavingsTest, TheNameOfTheModelChoosesThem) {
  struct Case {
    const char* model;
    v1::WeightFormat weights;
    bool lazy;
  };
  for (const Case& c :
       {Case{"", v1::WEIGHT_FORMAT_BF16, false}, Case{"echo", v1::WEIGHT_FORMAT_BF16, false},
        Case{"echo:int8", v1::WEIGHT_FORMAT_INT8, false},
        Case{"echo:fast", v1::WEIGHT_FORMAT_BF16, true},
        Case{"echo:fast+int8", v1::WEIGHT_FORMAT_INT8, true},
        Case{"echo:int8+fast", v1::WEIGHT_FORMAT_INT8, true}}) {
    const Outcome outcome = Ask(c.model);
    ASSERT_TRUE(outcome.status.ok()) << c.model << " " << outcome.status.error_message();
    EXPECT_EQ(outcome.only().final.weights(), c.weights) << c.model;
    EXPECT_EQ(outcome.only().final.prefill().mode() == v1::PrefillOutcome::MODE_LAZY, c.lazy)
        << c.model;
  }
}

TEST_F(SavingsTest, WordsThatTheModelHasNotAndContradictionsAreRefused) {
  for (const char* model :
       {"echo:", "echo:slow", "echo:fast+", "echo:int4", "other:fast", "echofast"}) {
    const Outcome outcome = Ask(model);
    EXPECT_EQ(outcome.status.error_code(), StatusCode::NOT_FOUND) << model;
    EXPECT_EQ(ViolatedField(outcome.status), "model");
  }
  EXPECT_THAT(Ask("echo:slow").status.error_message(), HasSubstr("bf16, int8, fast"));
  for (const char* model : {"echo:int8+int8", "echo:int8+bf16", "echo:fast+fast"}) {
    EXPECT_EQ(Ask(model).status.error_code(), StatusCode::INVALID_ARGUMENT) << model;
  }
  v1::GenerateRequest both = TextRequest(Prompt());
  both.set_model("echo:int8");
  both.set_weights(v1::WEIGHT_FORMAT_BF16);
  EXPECT_EQ(ViolatedField(server_.Generate(both).status), "model");
}

TEST_F(SavingsTest, APortForGatewaysGivesItsOwnToAllThatComesThroughIt) {
  for (const size_t port : {0, 1}) {
    const auto stub = ::vllm::grpc::engine::VllmEngine::NewStub(server_.NewWorkerChannel(port));
    grpc::ClientContext info_context;
    ::vllm::grpc::engine::GetModelInfoResponse info;
    ASSERT_TRUE(stub->GetModelInfo(&info_context, {}, &info).ok());
    EXPECT_EQ(info.served_model_name(), port == 0 ? "echo" : "echo:fast+int8");
    const double rows = server_.Metric("skim_rows_total", {{"format", "int8"}});
    ::vllm::grpc::engine::GenerateRequest request;
    request.set_text(Prompt());
    grpc::ClientContext context;
    const auto reader = stub->Generate(&context, request);
    for (::vllm::grpc::engine::GenerateResponse response; reader->Read(&response);) {
    }
    EXPECT_TRUE(reader->Finish().ok());
    server_.ExpectIdle();
    EXPECT_EQ(server_.Metric("skim_pruned_sequences_total"), port);
    EXPECT_EQ(server_.Metric("skim_rows_total", {{"format", "int8"}}) > rows, port == 1);
  }
}

TEST_F(SavingsTest, AreCheckedAgainstTheModelBeforeItServes) {
  std::vector<WorkerAddress> workers(2);
  EXPECT_TRUE(CheckWorkerSavings(workers, server_.info()).ok());
  workers[1].savings = "fast";
  EXPECT_TRUE(CheckWorkerSavings(workers, server_.info()).ok());
  workers[1].savings = "fp8";
  EXPECT_THAT(std::string(CheckWorkerSavings(workers, server_.info()).message()),
              HasSubstr("worker-listen: "));
}

}  // namespace
}  // namespace skim
