#include "loadtest/serve_bench.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <map>
#include <thread>

#include "tests/loadtest/fake_inference.h"

namespace skim {
namespace {

StreamRecord WithTokens(std::vector<Micros> times) {
  StreamRecord record;
  record.token_times = std::move(times);
  return record;
}

TEST(DecodeRate, CountsOnlyWhileEveryStreamDecodes) {
  // Together from 2 s to 4 s: the first stream's tokens at 3 and 4, the second's at 2.5 and 4.
  const auto rate = DecodeRate({WithTokens({1'000'000, 2'000'000, 3'000'000, 4'000'000}),
                                WithTokens({2'000'000, 2'500'000, 4'000'000, 5'000'000})});
  ASSERT_TRUE(rate.ok()) << rate.status();
  EXPECT_DOUBLE_EQ(*rate, 2);
}

TEST(DecodeRate, OfOneStreamIsItsTokensAfterTheFirst) {
  EXPECT_DOUBLE_EQ(*DecodeRate({WithTokens({0, 500'000, 1'000'000})}), 2);
}

TEST(DecodeRate, RefusesStreamsThatNeverDecodeTogether) {
  EXPECT_FALSE(DecodeRate({WithTokens({0, 1}), WithTokens({5, 6})}).ok());
  EXPECT_FALSE(DecodeRate({WithTokens({3})}).ok());
  EXPECT_FALSE(DecodeRate({WithTokens({})}).ok());
  EXPECT_FALSE(DecodeRate({}).ok());
}

v1::GetModelResponse SmallModel() {
  v1::GetModelResponse model;
  model.set_parameters(1'000'000);
  model.set_vocabulary(1000);
  model.set_hidden_size(100);
  model.set_layers(10);
  model.add_weight_formats(v1::WEIGHT_FORMAT_BF16);
  return model;
}

TEST(ServeCost, CountsWeightsOncePerTokenAndAttentionPerPair) {
  const ServeCost cost(SmallModel(), v1::WEIGHT_FORMAT_BF16);
  // 900,000 weights outside the embedding; 10 layers of width 100.
  const LayerTokens all = {10, 10};
  const double flops = 2 * 900'000 * 10 + 2 * 10 * 100 * 10 * 10 + 2 * 100'000;
  EXPECT_DOUBLE_EQ(cost.PrefillFlops({&all, 1}), flops);
  EXPECT_DOUBLE_EQ(cost.StepBytes(), 2'000'000);
  const Roofs roofs = {.bf16_flops = 1e6, .int8_ops = 2e6, .read_bytes_per_s = 4e6};
  EXPECT_DOUBLE_EQ(cost.StepSeconds(roofs), 0.5);
  EXPECT_DOUBLE_EQ(cost.PrefillSeconds(10, roofs), flops / 1e6);
}

TEST(ServeCost, CountsWhatEachStretchOfLayersRuns) {
  const ServeCost cost(SmallModel(), v1::WEIGHT_FORMAT_BF16);
  const LayerTokens stretches[] = {{6, 10}, {4, 3}};
  // Where tokens are cut, one row scores the ten below.
  EXPECT_DOUBLE_EQ(cost.PrefillFlops(stretches), 2 * 90'000 * (6 * 10 + 4 * 3) + 2 * 100'000 +
                                                     2 * 100 * (6 * 100 + 4 * 9) + 2 * 100 * 10);
}

TEST(ServeCost, CountsWhatIsSeenWithoutBeingRunAndWhatItTakesToPredictIt) {
  v1::GetModelResponse model = SmallModel();
  model.set_kv_size(20);
  const ServeCost cost(model, v1::WEIGHT_FORMAT_BF16);
  const LayerTokens without[] = {{6, 10}, {4, 3}};
  const LayerTokens seen[] = {{6, 10}, {4, 3, 10, 4 * 7}};
  EXPECT_DOUBLE_EQ(cost.PrefillFlops(seen) - cost.PrefillFlops(without),
                   2 * 100 * 4 * (3 * 10 - 3 * 3) + 4 * 100 * 20 * (4 * 7));
}

TEST(ServeCost, ReadsFewerBytesOfSmallerWeights) {
  const auto bytes = [](v1::WeightFormat weights) {
    return ServeCost(SmallModel(), weights).StepBytes();
  };
  EXPECT_DOUBLE_EQ(bytes(v1::WEIGHT_FORMAT_FP8), 1'000'000);
  EXPECT_DOUBLE_EQ(bytes(v1::WEIGHT_FORMAT_INT8), 1'000'000);
  // 900,000 weights of 5 bits, and 100,000 of the head in int8.
  EXPECT_DOUBLE_EQ(bytes(v1::WEIGHT_FORMAT_INT4), 562'500 + 100'000);
}

TEST(ServeCost, MultipliesInEightBitsWhereActivationsAreRounded) {
  const Roofs roofs = {.bf16_flops = 1e6, .int8_ops = 2e6, .read_bytes_per_s = 4e6};
  const auto seconds = [&](v1::WeightFormat weights) {
    return ServeCost(SmallModel(), weights).PrefillSeconds(10, roofs);
  };
  EXPECT_DOUBLE_EQ(seconds(v1::WEIGHT_FORMAT_FP8), 18.4);
  EXPECT_DOUBLE_EQ(seconds(v1::WEIGHT_FORMAT_INT8), 9.3);
  EXPECT_DOUBLE_EQ(seconds(v1::WEIGHT_FORMAT_INT4), 9.3);
}

class ServeBenchTest : public testing::Test {
 protected:
  absl::Status Run(FakeInference::Script script) {
    const FakeInference fake(std::move(script));
    ConnectionOptions options;
    options.server = fake.address();
    const auto connection = *Connection::Open(options);
    v1::GetModelResponse model = SmallModel();
    model.set_vocabulary(FakeInference::kVocabulary);
    model.set_max_context(8192);
    const Roofs roofs = {1e12, 1e12, 1e10};
    BenchClient client(connection.get(), model);
    return ServeBench(&client, v1::WEIGHT_FORMAT_INT8, roofs, 2,
                      [this](const auto& line) { lines_.push_back(line); })
        .Run();
  }

  std::vector<nlohmann::ordered_json> lines_;
};

// Serves the streams of one set together: none starts before all are there, and each takes its
// time, so that they decode side by side as they do on a real daemon.
class SideBySide {
 public:
  grpc::Status Serve(const v1::GenerateRequest& request, FakeInference::Writer* writer) {
    const int last_of_set = EndOfSet(arrived_++);
    while (arrived_ < last_of_set) std::this_thread::sleep_for(std::chrono::milliseconds(1));
    for (uint32_t i = 0; i < request.sampling().max_tokens(); ++i) {
      writer->Write(FakeInference::Token(i));
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    writer->Write(FakeInference::Final(request));
    return grpc::Status::OK;
  }

 private:
  // Two repetitions each: warm-up (once), prefill, three lengths, three decodes, batch.
  static int EndOfSet(int arrival) {
    int end = 0;
    for (const int streams : {4, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 4, 4, 16, 16, 16, 16}) {
      end += streams;
      if (arrival < end) return end;
    }
    return 0;
  }

  std::atomic<int> arrived_ = 0;
};

TEST_F(ServeBenchTest, EmitsEveryDocumentedFigureOnce) {
  SideBySide service;
  const absl::Status status =
      Run([&](auto& request, auto*, auto* writer) { return service.Serve(request, writer); });
  ASSERT_TRUE(status.ok()) << status;
  std::map<std::string, int> seen;
  for (const auto& line : lines_) {
    EXPECT_EQ(line["suite"], "serve");
    EXPECT_GT(line["value"], 0.0) << line;
    EXPECT_GT(line["roof_share"], 0.0) << line;
    EXPECT_EQ(line["params"]["weights"], "int8");
    std::string name = line["name"];
    const auto& params = line["params"];
    if (name == "ttft_ms") name += params["prompt_tokens"].dump();
    if (name == "decode_tokens_per_s") name += params["streams"].dump();
    ++seen[name];
  }
  using testing::Pair;
  EXPECT_THAT(seen, testing::UnorderedElementsAre(
                        Pair("prefill_tokens_per_s", 1), Pair("ttft_ms128", 1),
                        Pair("ttft_ms1024", 1), Pair("ttft_ms4096", 1),
                        Pair("decode_tokens_per_s1", 1), Pair("decode_tokens_per_s4", 1),
                        Pair("decode_tokens_per_s16", 1), Pair("batch_tokens_per_s", 1)));
}

TEST_F(ServeBenchTest, GivesNoFigureForStreamsThatFail) {
  EXPECT_FALSE(Run([](auto&, auto*, auto*) {
                 return grpc::Status(grpc::StatusCode::INTERNAL, "device fault");
               }).ok());
  EXPECT_TRUE(lines_.empty());
}

TEST_F(ServeBenchTest, GivesNoFigureWithHelpFromTheCache) {
  const absl::Status status = Run([](auto& request, auto*, auto* writer) {
    for (uint32_t i = 0; i < request.sampling().max_tokens(); ++i) {
      writer->Write(FakeInference::Token(i));
    }
    v1::GenerateResponse final = FakeInference::Final(request);
    final.mutable_final()->mutable_usage()->set_cached_tokens(16);
    writer->Write(final);
    return grpc::Status::OK;
  });
  EXPECT_THAT(std::string(status.message()), testing::HasSubstr("cached"));
  EXPECT_TRUE(lines_.empty());
}

}  // namespace
}  // namespace skim
