#include "loadtest/lazy_bench.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <map>
#include <thread>

#include "tests/loadtest/fake_inference.h"

namespace skim {
namespace {

using testing::HasSubstr;

// Ten layers, cut in the middle.
v1::GetModelResponse PruningModel() {
  v1::GetModelResponse model;
  model.set_parameters(1'000'000);
  model.set_vocabulary(FakeInference::kVocabulary);
  model.set_hidden_size(100);
  model.set_layers(10);
  model.set_max_context(4096);
  model.add_prefill_boundaries(5);
  model.set_prefill_min_kept_tokens(64);
  for (const auto& [name, keep] : {std::pair("fast", .5f), std::pair("paper", .25f)}) {
    model.add_prefill_profiles(name);
    v1::PrefillProfile* settings = model.add_prefill_profile_settings();
    settings->set_name(name);
    settings->add_keep_ratio(keep);
  }
  return model;
}

// A token a millisecond; the first of an exact prompt after 40 ms, of a pruned one after 20 ms.
grpc::Status Serve(const v1::GenerateRequest& request, grpc::ServerContext* context,
                   FakeInference::Writer* writer) {
  const bool pruned = request.prefill().has_lazy();
  if (request.token_ids().ids_size() > 64) {
    std::this_thread::sleep_for(std::chrono::milliseconds(pruned ? 20 : 40));
  }
  for (uint32_t i = 0; i < request.sampling().max_tokens(); ++i) {
    if (!writer->Write(FakeInference::Token(i)) || context->IsCancelled()) {
      return grpc::Status::CANCELLED;
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  v1::GenerateResponse final = FakeInference::Final(request);
  if (pruned) {
    final.mutable_final()->mutable_prefill()->set_mode(v1::PrefillOutcome::MODE_LAZY);
  }
  writer->Write(final);
  return grpc::Status::OK;
}

class LazyBenchTest : public testing::Test {
 protected:
  static LazyBenchOptions Options() {
    return {.profiles = {"fast", "paper"},
            .lengths = {100, 200},
            .output_tokens = {2, 8},
            .users = 3,
            .quiet = 50'000,
            .repetitions = 2};
  }

  absl::Status Run(FakeInference::Script script, const LazyBenchOptions& options = Options(),
                   const v1::GetModelResponse& model = PruningModel()) {
    const FakeInference fake(std::move(script));
    ConnectionOptions to;
    to.server = fake.address();
    const auto connection = *Connection::Open(to);
    BenchClient client(connection.get(), model);
    std::atomic<int> scrapes = 0;
    LazyBench bench(
        &client, options, {.bf16_flops = 1e12, .int8_ops = 2e12, .read_bytes_per_s = 1e10},
        // Those of exact, then of the others, each at two numbers of tokens.
        [&] { return absl::StatusOr<double>(scrapes++ < 2 ? 100 : 60); },
        [this](const auto& line) { lines_.push_back(line); },
        [this](double share, const std::string&) { shares_.push_back(share); });
    const absl::Status status = bench.Run();
    table_ = bench.Table();
    return status;
  }

  double Value(const std::string& name, const std::string& profile, const std::string& weights,
               int64_t prompt_tokens, int64_t output_tokens) const {
    for (const auto& line : lines_) {
      const auto& params = line["params"];
      if (line["name"] == name && params["profile"] == profile && params["weights"] == weights &&
          params["prompt_tokens"] == prompt_tokens && params["output_tokens"] == output_tokens) {
        return line["value"];
      }
    }
    ADD_FAILURE() << "no " << name << " of " << profile;
    return 0;
  }

  std::vector<nlohmann::ordered_json> lines_;
  std::vector<double> shares_;
  std::string table_;
};

TEST_F(LazyBenchTest, EmitsEveryDocumentedFigureOnce) {
  const absl::Status status = Run(Serve);
  ASSERT_TRUE(status.ok()) << status;
  std::map<std::string, int> seen;
  std::map<std::string, int> names;
  for (const auto& line : lines_) {
    EXPECT_EQ(line["suite"], "lazy");
    EXPECT_GT(line["value"], 0.0) << line;
    EXPECT_EQ(++seen[line["name"].dump() + line["params"].dump()], 1) << line;
    ++names[line["name"]];
  }
  using testing::Pair;
  // Settings: exact, fast and paper in bf16, fast in int8; two lengths of prompts and outputs.
  EXPECT_THAT(names, testing::UnorderedElementsAre(Pair("ttft_ms", 8), Pair("ttft_gain", 6),
                                                   Pair("predicted_gain", 6), Pair("gain_share", 6),
                                                   Pair("e2e_gain", 6), Pair("memory_saved", 6),
                                                   Pair("itl_ratio", 3),
                                                   Pair("itl_p99_ratio", 2)));
  EXPECT_EQ(shares_.back(), 1);
  EXPECT_TRUE(std::ranges::is_sorted(shares_));
  for (const char* row : {"exact bf16", "fast bf16", "paper bf16", "fast int8"}) {
    EXPECT_THAT(table_, HasSubstr(row));
  }
}

TEST_F(LazyBenchTest, GainsAreOverTheExactModelInTheFirstWeights) {
  ASSERT_TRUE(Run(Serve).ok());
  EXPECT_NEAR(Value("ttft_gain", "fast", "int8", 200, 1), 2, 0.5);
  EXPECT_DOUBLE_EQ(Value("memory_saved", "paper", "bf16", 200, 8), 0.4);
  EXPECT_DOUBLE_EQ(
      Value("gain_share", "fast", "bf16", 100, 1) * Value("predicted_gain", "fast", "bf16", 100, 1),
      Value("ttft_gain", "fast", "bf16", 100, 1));
}

TEST_F(LazyBenchTest, PredictsFromBoundariesAndSharesAlone) {
  ASSERT_TRUE(Run(Serve).ok());
  // 900,000 weights in ten layers, a head of 100,000, attention of width 100.
  const auto work = [](double below, double above) {
    const double scoring = above < below ? 2 * 100 * below : 0;
    return 2 * 90'000 * 5 * (below + above) + 2 * 100'000 +
           2 * 100 * 5 * (below * below + above * above) + scoring;
  };
  EXPECT_NEAR(Value("predicted_gain", "fast", "bf16", 200, 1), work(200, 200) / work(200, 100),
              1e-9);
  // A quarter of 100 is less than is always kept.
  EXPECT_NEAR(Value("predicted_gain", "paper", "bf16", 100, 1), work(100, 100) / work(100, 64),
              1e-9);
  EXPECT_GT(Value("predicted_gain", "fast", "int8", 200, 1),
            Value("predicted_gain", "fast", "bf16", 200, 1));
}

TEST_F(LazyBenchTest, PredictsWhatScoutsAndPhantomsTakeToo) {
  v1::GetModelResponse model = PruningModel();
  model.set_kv_size(20);
  model.add_prefill_scouted_boundaries(5);
  model.add_prefill_scout_layers(8);
  model.mutable_prefill_profile_settings(0)->set_decode_mode(
      v1::PrefillPolicy::DECODE_MODE_PHANTOM);
  ASSERT_TRUE(Run(Serve, Options(), model).ok());
  // As above; what half of 200 tokens lack in five layers is predicted, and for the scouts the keys
  // and values of all in three. Tokens that are seen are attended to.
  const double rest = 2 * 90'000 * 5 * (200 + 100) + 2 * 100'000 + 2 * 100 * 200;
  const double pruned =
      rest + 2 * 100 * 5 * (200 * 200 + 100 * 200) + 4 * 100 * 20 * (5 * 100 + 3 * 200);
  const double exact = 2 * 90'000 * 10 * 200 + 2 * 100'000 + 2 * 100 * 10 * 200 * 200;
  EXPECT_NEAR(Value("predicted_gain", "fast", "bf16", 200, 1), exact / pruned, 1e-9);
}

TEST_F(LazyBenchTest, RefusesProfilesAndLengthsThatTheServerDoesNotHave) {
  LazyBenchOptions options = Options();
  options.profiles = {"bold"};
  EXPECT_THAT(std::string(Run(Serve, options).message()), HasSubstr("--profiles"));
  options = Options();
  options.lengths = {100, 4096};
  EXPECT_THAT(std::string(Run(Serve, options).message()), HasSubstr("--lengths"));
  EXPECT_TRUE(lines_.empty());
}

TEST_F(LazyBenchTest, GivesNoFigureForPromptsThatWereNotPruned) {
  const absl::Status status = Run([](auto& request, auto* context, auto* writer) {
    return FakeInference::Honest(request, context, writer);
  });
  EXPECT_THAT(std::string(status.message()), HasSubstr("was not pruned"));
  EXPECT_TRUE(lines_.empty());
}

TEST_F(LazyBenchTest, GivesNoFigureIfUsersCannotBeServed) {
  const absl::Status status = Run([](auto& request, auto* context, auto* writer) {
    if (request.token_ids().ids_size() == 64) {
      return grpc::Status(grpc::StatusCode::INTERNAL, "device fault");
    }
    return Serve(request, context, writer);
  });
  EXPECT_THAT(std::string(status.message()), HasSubstr("device fault"));
  EXPECT_TRUE(lines_.empty());
}

}  // namespace
}  // namespace skim
