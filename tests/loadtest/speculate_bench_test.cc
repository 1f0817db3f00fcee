#include "loadtest/speculate_bench.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <fstream>
#include <map>
#include <mutex>
#include <set>
#include <thread>

#include "loadtest/speculate_texts.h"
#include "tests/loadtest/fake_inference.h"

namespace skim {
namespace {

using testing::HasSubstr;
using testing::Pair;

constexpr uint32_t kTokens = 25;  // the first, and 24 more

v1::GetModelResponse Model() {
  v1::GetModelResponse model;
  model.set_parameters(2'000'000);
  model.set_vocabulary(FakeInference::kVocabulary);
  model.set_hidden_size(100);
  model.set_layers(10);
  model.set_max_context(4096);
  model.set_has_chat_template(true);
  return model;
}

// A step of 4 ms yields a token, or three if two drafts are accepted of the three verified in it;
// a draft pass takes another millisecond.
grpc::Status Serve(const v1::GenerateRequest& request, grpc::ServerContext* context,
                   FakeInference::Writer* writer) {
  if (!request.has_chat()) return FakeInference::Honest(request, context, writer);  // to warm up
  const bool self = request.speculation().has_self();
  const bool drafts = self || request.speculation().has_lookup();
  writer->Write(FakeInference::Token(0));
  uint32_t rounds = 0;
  for (uint32_t i = 1; i < kTokens; i += drafts ? 3 : 1, ++rounds) {
    std::this_thread::sleep_for(std::chrono::milliseconds(self ? 7 : 4));
    v1::GenerateResponse run = FakeInference::Token(i);
    for (uint32_t more = 1; drafts && more < 3; ++more)
      run.mutable_delta()->add_token_ids(i + more);
    writer->Write(run);
  }
  v1::GenerateResponse final = FakeInference::Final(request);
  final.mutable_final()->mutable_usage()->set_generated_tokens(kTokens);
  if (drafts) {
    auto* source = final.mutable_final()->mutable_speculation()->add_sources();
    source->set_rounds(rounds);
    source->set_draft_tokens(3 * rounds);
    source->set_accepted_tokens(2 * rounds);
    source->set_draft_rows(self ? 3 * rounds : 0);
    if (self) source->set_weights(request.speculation().self().weights());
  }
  writer->Write(final);
  return grpc::Status::OK;
}

class SpeculateBenchTest : public testing::Test {
 protected:
  static SpeculateBenchOptions Options() {
    return {.texts = {"templated", "chat"},
            .drafters = {"lookup", "self:int8"},
            .streams = {1, 2},
            .weights = {v1::WEIGHT_FORMAT_BF16},
            .output_tokens = 64,
            .repetitions = 2};
  }

  absl::Status Run(FakeInference::Script script, const SpeculateBenchOptions& options = Options()) {
    const FakeInference fake([&](const v1::GenerateRequest& request, grpc::ServerContext* context,
                                 FakeInference::Writer* writer) {
      {
        std::lock_guard lock(mutex_);
        requests_.push_back(request);
      }
      return script(request, context, writer);
    });
    ConnectionOptions to;
    to.server = fake.address();
    const auto connection = *Connection::Open(to);
    BenchClient client(connection.get(), Model());
    SpeculateBench bench(
        &client, options, [this](const auto& line) { lines_.push_back(line); },
        [this](double share, const std::string&) { shares_.push_back(share); });
    const absl::Status status = bench.Run();
    table_ = bench.table();
    return status;
  }

  double Value(const std::string& name, const std::string& drafter, int streams) const {
    for (const auto& line : lines_) {
      const auto& params = line["params"];
      if (line["name"] == name && params["drafter"] == drafter && params["streams"] == streams &&
          params["text"] == "chat") {
        return line["value"];
      }
    }
    ADD_FAILURE() << "no " << name << " of " << drafter;
    return 0;
  }

  std::mutex mutex_;
  std::vector<v1::GenerateRequest> requests_;
  std::vector<nlohmann::ordered_json> lines_;
  std::vector<double> shares_;
  std::string table_;
};

TEST_F(SpeculateBenchTest, EmitsEveryDocumentedFigureOnce) {
  const absl::Status status = Run(Serve);
  ASSERT_TRUE(status.ok()) << status;
  std::map<std::string, int> seen, names;
  for (const auto& line : lines_) {
    EXPECT_EQ(line["suite"], "speculate");
    EXPECT_EQ(++seen[line["name"].dump() + line["params"].dump()], 1) << line;
    EXPECT_EQ(line["params"]["weights"], "bf16");
    ++names[line["name"]];
  }
  // Two texts at two numbers of streams, off and two drafters, one of which runs passes.
  EXPECT_THAT(names,
              testing::UnorderedElementsAre(Pair("tokens_per_s", 12), Pair("speedup", 8),
                                            Pair("predicted_speedup", 8), Pair("acceptance", 8),
                                            Pair("tokens_per_round", 8), Pair("verify_cost", 4)));
  EXPECT_EQ(shares_.back(), 1);
  EXPECT_TRUE(std::ranges::is_sorted(shares_));
  for (const char* drafter : {"off", "lookup", "self:int8"})
    EXPECT_THAT(table_, HasSubstr(drafter));
}

TEST_F(SpeculateBenchTest, FiguresAreWhatTheStreamsCameTo) {
  ASSERT_TRUE(Run(Serve).ok());
  EXPECT_DOUBLE_EQ(Value("acceptance", "lookup", 1), 2.0 / 3);
  EXPECT_DOUBLE_EQ(Value("tokens_per_round", "self:int8", 2), 3);
  EXPECT_DOUBLE_EQ(Value("predicted_speedup", "lookup", 1), 3) << "rows are free";
  const double predicted = Value("predicted_speedup", "self:int8", 1);
  EXPECT_GT(predicted, 3 / (1 + 3 * 0.7));
  EXPECT_LT(predicted, 3 / (1 + 3 * 0.4));
  EXPECT_GT(Value("speedup", "lookup", 1), 1.5);
  EXPECT_LT(Value("speedup", "self:int8", 1), Value("speedup", "lookup", 1));
  EXPECT_NEAR(Value("verify_cost", "lookup", 1), 0, 0.3);
}

TEST_F(SpeculateBenchTest, SettingsTakeTurnsAndSendTheSamePrompts) {
  ASSERT_TRUE(Run(Serve).ok());
  std::string turns;
  std::map<char, std::multiset<std::string>> prompts;
  std::set<std::string> salts;
  for (const v1::GenerateRequest& request : requests_) {
    if (!request.has_chat()) continue;  // to warm up
    const v1::Speculation& speculation = request.speculation();
    const char kind = speculation.has_off() ? 'o' : speculation.has_lookup() ? 'l' : 's';
    turns += kind;
    prompts[kind].insert(request.chat().messages(0).content());
    EXPECT_TRUE(salts.insert(request.cache_salt()).second) << "found in the cache";
    EXPECT_FALSE(request.sampling().ignore_eos());
  }
  EXPECT_EQ(turns.substr(0, 12), "olsolsoollss");
  EXPECT_EQ(prompts['o'], prompts['l']);
  EXPECT_EQ(prompts['o'], prompts['s']);
}

TEST_F(SpeculateBenchTest, DraftsOfFewLayersCostWhatTheyRead) {
  SpeculateBenchOptions options = Options();
  options.texts = {"chat"};
  options.drafters = {"self:2:bf16"};
  options.max_draft_tokens = 3;
  ASSERT_TRUE(Run(Serve, options).ok());
  // Of 2.0 million parameters 0.1 are the head's: a pass reads 0.38 + 0.1 of them.
  EXPECT_NEAR(Value("predicted_speedup", "self:2:bf16", 1), 3 / (1 + 3 * 0.48 / 2), 1e-9);
  for (const v1::GenerateRequest& request : requests_) {
    if (request.speculation().has_self()) {
      EXPECT_EQ(request.speculation().max_draft_tokens(), 3u);
    } else {
      EXPECT_FALSE(request.speculation().has_max_draft_tokens());
    }
  }
}

TEST_F(SpeculateBenchTest, NarrowAsksWhatItsFileHoldsBatchByBatch) {
  SpeculateBenchOptions options = Options();
  options.texts = {"narrow"};
  options.drafters = {"lookup"};
  options.streams = {2};
  options.batches = 2;
  options.repetitions = 1;
  options.narrow_file = testing::TempDir() + "/skim_narrow.jsonl";
  std::ofstream(options.narrow_file) << R"({"prompt": "a"}
{"prompt": "b"}
{"prompt": "c"}
)";
  const absl::Status status = Run(Serve, options);
  ASSERT_TRUE(status.ok()) << status;
  std::multiset<std::string> asked;
  for (const v1::GenerateRequest& request : requests_) {
    if (request.has_chat() && request.speculation().has_off()) {
      asked.insert(request.chat().messages(0).content());
    }
  }
  EXPECT_EQ(asked, (std::multiset<std::string>{"a", "a", "b", "c"}));
  options.narrow_file = "/nowhere/prompts.jsonl";
  EXPECT_THAT(std::string(Run(Serve, options).message()), HasSubstr("/nowhere/prompts.jsonl"));
}

TEST_F(SpeculateBenchTest, AnotherAnswerThanWithoutSpeculationFails) {
  const absl::Status status = Run([](const v1::GenerateRequest& request,
                                     grpc::ServerContext* context, FakeInference::Writer* writer) {
    if (!request.speculation().has_self()) return Serve(request, context, writer);
    writer->Write(FakeInference::Token(7));
    writer->Write(FakeInference::Token(8));
    v1::GenerateResponse final = FakeInference::Final(request);
    final.mutable_final()->mutable_usage()->set_generated_tokens(2);
    writer->Write(final);
    return grpc::Status::OK;
  });
  EXPECT_EQ(status.code(), absl::StatusCode::kInternal);
  EXPECT_THAT(std::string(status.message()), HasSubstr("self:int8"));
}

TEST_F(SpeculateBenchTest, RefusalsNameTheFlag) {
  const auto refused = [&](auto damage) {
    SpeculateBenchOptions options = Options();
    damage(&options);
    const absl::Status status = Run(Serve, options);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    return std::string(status.message());
  };
  EXPECT_THAT(refused([](auto* o) { o->texts = {"poems"}; }), HasSubstr("--texts"));
  EXPECT_THAT(refused([](auto* o) { o->drafters = {"oracle"}; }), HasSubstr("--drafters"));
  EXPECT_THAT(refused([](auto* o) { o->drafters = {"off"}; }), HasSubstr("--drafters"));
  EXPECT_THAT(refused([](auto* o) { o->streams = {0}; }), HasSubstr("--streams"));
  EXPECT_THAT(refused([](auto* o) { o->streams = {}; }), HasSubstr("--streams"));
}

TEST(SpeculateText, HasAPromptOfItsOwnForEachOfSixteenStreams) {
  for (const char* text : {"templated", "chat"}) {
    const std::vector<std::string> prompts = SpeculateText(text);
    EXPECT_EQ(prompts.size(), 16u);
    EXPECT_EQ(std::set<std::string>(prompts.begin(), prompts.end()).size(), 16u) << text;
  }
  EXPECT_TRUE(SpeculateText("poems").empty());
}

}  // namespace
}  // namespace skim
