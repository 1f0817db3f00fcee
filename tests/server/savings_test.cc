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
       {"echo:", "echo:slow", "echo:fast+", "echo:int4", "other:fast", "echofast", "echo:none",
        "echo:lookup-2", "echo:head-2", "echo:auto-int8", "echo:draft", "echo:draft-model-2",
        "echo:self-", "echo:self-int8-1", "echo:self-fp7"}) {
    const Outcome outcome = Ask(model);
    EXPECT_EQ(outcome.status.error_code(), StatusCode::NOT_FOUND) << model;
    EXPECT_EQ(ViolatedField(outcome.status), "model");
  }
  EXPECT_THAT(Ask("echo:slow").status.error_message(),
              HasSubstr("bf16, int8, fast, lookup, self, auto"));
  for (const char* model :
       {"echo:int8+int8", "echo:int8+bf16", "echo:fast+fast", "echo:lookup+auto", "echo:self-3",
        "echo:int8+self-int8", "echo:fast+lookup"}) {
    EXPECT_EQ(Ask(model).status.error_code(), StatusCode::INVALID_ARGUMENT) << model;
  }
  v1::GenerateRequest both = TextRequest(Prompt());
  both.set_model("echo:int8");
  both.set_weights(v1::WEIGHT_FORMAT_BF16);
  EXPECT_EQ(ViolatedField(server_.Generate(both).status), "model");
  both.set_model("echo:lookup");
  both.mutable_speculation()->mutable_off();
  EXPECT_EQ(ViolatedField(server_.Generate(both).status), "model");
}

TEST_F(SavingsTest, TheNameOfTheModelChoosesWhoGuessesAhead) {
  struct Case {
    const char* savings;
    v1::SpeculationOutcome::Drafter drafter;
    v1::WeightFormat drafts;  // in this weight format
    double layers_per_draft;
  };
  const std::string text = "0123456789abcdef";
  for (const Case& c :
       {Case{"lookup", v1::SpeculationOutcome::DRAFTER_LOOKUP, v1::WEIGHT_FORMAT_UNSPECIFIED, 0},
        Case{"int8+lookup", v1::SpeculationOutcome::DRAFTER_LOOKUP, v1::WEIGHT_FORMAT_UNSPECIFIED,
             0},
        Case{"self", v1::SpeculationOutcome::DRAFTER_SELF, v1::WEIGHT_FORMAT_INT8, 2},
        Case{"self-int8", v1::SpeculationOutcome::DRAFTER_SELF, v1::WEIGHT_FORMAT_INT8, 2},
        Case{"self-1", v1::SpeculationOutcome::DRAFTER_SELF, v1::WEIGHT_FORMAT_INT8, 1},
        Case{"self-1-bf16", v1::SpeculationOutcome::DRAFTER_SELF, v1::WEIGHT_FORMAT_BF16, 1}}) {
    v1::GenerateRequest request = EndlessRequest(text, 40);
    request.set_model(std::string("echo:") + c.savings);
    const Outcome outcome = server_.Generate(request);
    ASSERT_TRUE(outcome.status.ok()) << c.savings << " " << outcome.status.error_message();
    const v1::SpeculationOutcome& told = outcome.only().final.speculation();
    ASSERT_EQ(told.sources_size(), 1) << c.savings;
    const v1::SpeculationOutcome::Source& source = told.sources(0);
    EXPECT_EQ(source.drafter(), c.drafter) << c.savings;
    EXPECT_EQ(source.weights(), c.drafts) << c.savings;
    // The drafts of `self` are all right, so each saves a step of two layers.
    if (c.layers_per_draft > 0) {
      EXPECT_EQ(told.layer_passes_saved(), source.draft_rows() * (2 - c.layers_per_draft))
          << c.savings;
    }
  }
  v1::GenerateRequest request = EndlessRequest(text, 40);
  request.set_model("echo:auto");
  EXPECT_GT(server_.Generate(request).only().final.speculation().sources_size(), 0);
}

TEST_F(SavingsTest, TheDraftModelHasAWordWhereThereIsOne) {
  v1::GenerateRequest request = EndlessRequest("0123456789abcdef", 40);
  request.set_model("echo:draft-model");
  EXPECT_EQ(server_.Generate(request).status.error_code(), StatusCode::UNIMPLEMENTED);
  TestServerOptions options;
  options.draft_model = true;
  TestServer server(options);
  const Outcome outcome = server.Generate(request);
  ASSERT_TRUE(outcome.status.ok()) << outcome.status.error_message();
  const v1::SpeculationOutcome& told = outcome.only().final.speculation();
  ASSERT_EQ(told.sources_size(), 1);
  EXPECT_EQ(told.sources(0).drafter(), v1::SpeculationOutcome::DRAFTER_DRAFT_MODEL);
  request.set_model("echo:slow");
  EXPECT_THAT(server.Generate(request).status.error_message(), HasSubstr("draft-model, auto"));
}

TEST_F(SavingsTest, ADrafterThatIsNotServedIsRefused) {
  TestServerOptions options;
  options.limits.drafters = {DrafterKind::kLookup};
  TestServer server(options);
  v1::GenerateRequest request = EndlessRequest("abab", 10);
  request.set_model("echo:self");
  const grpc::Status status = server.Generate(request).status;
  EXPECT_EQ(status.error_code(), StatusCode::UNIMPLEMENTED);
  EXPECT_EQ(ViolatedField(status), "model");
  EXPECT_THAT(status.error_message(), HasSubstr("does not serve that drafter"));
  request.set_model("echo:lookup");
  EXPECT_TRUE(server.Generate(request).status.ok());
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
  ServedModel model;
  model.info = &server_.info();
  model.limits.drafters = {DrafterKind::kSelf};
  EXPECT_TRUE(CheckWorkerSavings(workers, model).ok());
  for (const char* savings : {"fast", "self-int8", "int8+auto"}) {
    workers[1].savings = savings;
    EXPECT_TRUE(CheckWorkerSavings(workers, model).ok()) << savings;
  }
  // No call with the last two could be served.
  for (const char* savings : {"fp8", "lookup", "int8+self-int8", "fast+self-1"}) {
    workers[1].savings = savings;
    EXPECT_THAT(std::string(CheckWorkerSavings(workers, model).message()),
                HasSubstr("worker-listen: "))
        << savings;
  }
}

}  // namespace
}  // namespace skim
