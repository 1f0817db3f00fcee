// G8: whole models on the CUDA backend against the CPU's: the same greedy tokens and the same
// pruned ones, logits within a tolerance.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "tests/engine/golden.h"
#include "tests/engine/scheduled_engine.h"
#include "tests/ptxsim/from_tests.h"

namespace skim {
namespace {

// Of the largest logit. Both round the inputs of products to bf16, but sums are added in
// different orders, so that now and then the roundings differ.
constexpr float kRelative = 2e-2f;

// Null where there is no device.
std::unique_ptr<EngineHarness> Load(const std::string& model, HarnessOptions options) {
  options.page_tokens = 16;
  options.max_rows = 128;
  auto harness = EngineHarness::Load(GoldenPath(model), options);
  if (harness.ok()) return *std::move(harness);
  EXPECT_EQ(harness.status().code(), absl::StatusCode::kFailedPrecondition) << harness.status();
  return nullptr;
}

void ExpectNear(const std::vector<float>& host, const std::vector<float>& device) {
  ASSERT_EQ(host.size(), device.size());
  float difference = 0, largest = 0;
  for (size_t v = 0; v < host.size(); ++v) {
    difference = std::max(difference, std::abs(host[v] - device[v]));
    largest = std::max(largest, std::abs(host[v]));
  }
  EXPECT_LE(difference, kRelative * largest);
}

std::vector<TokenId> Prompt(int32_t length) {
  std::vector<TokenId> prompt(static_cast<size_t>(length));
  for (size_t i = 0; i < prompt.size(); ++i) prompt[i] = static_cast<TokenId>(i * 53 % 250);
  return prompt;
}

// Of a model, for a test.
std::string NameOf(std::string model) {
  std::replace(model.begin(), model.end(), '-', '_');
  return model;
}

class BackendParity : public ::testing::TestWithParam<std::string> {};

TEST_P(BackendParity, GreedyTokensAreTheCpus) {
  const auto device = Load(GetParam(), {.backend = "cuda", .boundaries = {1}});
  if (device == nullptr) GTEST_SKIP() << "no CUDA device";
  const auto host = Load(GetParam(), {.boundaries = {1}});
  const std::vector<TokenId> prompt = Prompt(37);
  // Two sequences in one batch: prefill of one beside the decoding of the other.
  const std::vector<TokenId> shorter(prompt.begin() + 20, prompt.begin() + 25);
  std::vector<std::vector<TokenId>> tokens;
  std::vector<std::vector<float>> logits;
  for (EngineHarness* harness : {host.get(), device.get()}) {
    HarnessSequence a = harness->NewSequence(prompt), b = harness->NewSequence(shorter);
    ASSERT_TRUE(harness->Step({{&b, 5}}).ok());
    ASSERT_TRUE(harness->Step({{&a, 30}, {&b, 1}}).ok());
    ASSERT_TRUE(harness->Step({{&b, 1}, {&a, 7}}).ok());
    for (int i = 0; i < 4; ++i) ASSERT_TRUE(harness->Step({{&a, 1}, {&b, 1}}).ok());
    tokens.push_back(a.tokens);
    tokens.push_back(b.tokens);
    logits.push_back(harness->Logits(a.id, a.computed - 1));
    logits.push_back(harness->Logits(b.id, b.computed - 1));
  }
  for (int i : {0, 1}) {
    EXPECT_EQ(tokens[i], tokens[2 + i]);
    ExpectNear(logits[i], logits[2 + i]);
  }
}

INSTANTIATE_TEST_SUITE_P(cuda, BackendParity,
                         testing::Values("tiny-llama2", "tiny-qwen2", "tiny-qwen3",
                                         "tiny-llama-bias"),
                         [](const auto& info) { return NameOf(info.param); });

struct Model {
  std::string name;
  WeightFormat format;
};

// A prompt long enough for products of many rows, with and without biases.
class CublasLtParity : public ::testing::TestWithParam<Model> {};

TEST_P(CublasLtParity, GreedyTokensAreTheCpusAndIntegersGiveTheBitsOfOurOwn) {
  const auto& [model, format] = GetParam();
  auto* const products = ptxsim::Products();
  std::vector<std::vector<TokenId>> tokens;
  std::vector<std::vector<float>> logits;
  size_t asked = 0;
  for (HarnessOptions options : {HarnessOptions{}, HarnessOptions{.backend = "cuda"},
                                 HarnessOptions{.backend = "cuda", .cuda_gemm = "cublaslt"}}) {
    options.formats = {format};
    const auto harness = Load(model, options);
    if (harness == nullptr) GTEST_SKIP() << "no CUDA device, or no cuBLASLt";
    asked = products == nullptr ? 0 : products();
    HarnessSequence a = harness->NewSequence(Prompt(70));
    a.format = format;
    ASSERT_TRUE(harness->Step({{&a, 70}}).ok());
    logits.push_back(harness->Logits(a.id, a.computed - 1));
    for (int i = 0; i < 2; ++i) ASSERT_TRUE(harness->Step({{&a, 1}}).ok());
    tokens.push_back(a.tokens);
    if (products != nullptr) asked = products() - asked;
  }
  EXPECT_EQ(tokens[0], tokens[2]);
  ExpectNear(logits[0], logits[2]);
  if (format == WeightFormat::kInt8 || format == WeightFormat::kInt4) {
    EXPECT_EQ(logits[1], logits[2]);
  }
  if (products != nullptr) {
    EXPECT_EQ(asked > 0, format != WeightFormat::kInt4);
  }
}

INSTANTIATE_TEST_SUITE_P(cuda, CublasLtParity,
                         testing::Values(Model{"tiny-llama2", WeightFormat::kBf16},
                                         Model{"tiny-llama-bias", WeightFormat::kBf16},
                                         Model{"tiny-llama2", WeightFormat::kFp8},
                                         Model{"tiny-llama-bias", WeightFormat::kFp8},
                                         Model{"tiny-llama2", WeightFormat::kInt8},
                                         Model{"tiny-llama-bias", WeightFormat::kInt8},
                                         Model{"tiny-llama2", WeightFormat::kInt4}),
                         [](const auto& info) {
                           return NameOf(info.param.name) + "_" +
                                  std::string(WeightFormatName(info.param.format));
                         });

struct Formats {
  WeightFormat weights;
  KvFormat kv;
};

class FormatParity : public ::testing::TestWithParam<Formats> {};

TEST_P(FormatParity, GreedyTokensAreTheCpus) {
  std::vector<std::vector<TokenId>> tokens;
  std::vector<std::vector<float>> logits;
  std::vector<WeightFormat> formats = {WeightFormat::kBf16};
  if (GetParam().weights != WeightFormat::kBf16) formats.push_back(GetParam().weights);
  for (const std::string backend : {"cpu", "cuda"}) {
    const auto harness =
        Load("tiny-llama2", {.backend = backend, .kv_format = GetParam().kv, .formats = formats});
    if (harness == nullptr) GTEST_SKIP() << "no CUDA device";
    // Beside a row of bf16, so that a step has both.
    HarnessSequence a = harness->NewSequence(Prompt(21)), b = harness->NewSequence(Prompt(4));
    a.format = GetParam().weights;
    ASSERT_TRUE(harness->Step({{&a, 13}, {&b, 4}}).ok());
    ASSERT_TRUE(harness->Step({{&a, 8}, {&b, 1}}).ok());
    for (int i = 0; i < 3; ++i) ASSERT_TRUE(harness->Step({{&a, 1}}).ok());
    tokens.push_back(a.tokens);
    logits.push_back(harness->Logits(a.id, a.computed - 1));
  }
  EXPECT_EQ(tokens[0], tokens[1]);
  ExpectNear(logits[0], logits[1]);
}

std::string FormatNames(const testing::TestParamInfo<Formats>& info) {
  return std::string(WeightFormatName(info.param.weights)) + "_kv_" +
         std::string(KvFormatName(info.param.kv));
}

INSTANTIATE_TEST_SUITE_P(cuda, FormatParity,
                         testing::Values(Formats{WeightFormat::kFp8, KvFormat::kBf16},
                                         Formats{WeightFormat::kInt8, KvFormat::kInt8},
                                         Formats{WeightFormat::kInt4, KvFormat::kBf16},
                                         Formats{WeightFormat::kBf16, KvFormat::kInt8},
                                         Formats{WeightFormat::kBf16, KvFormat::kFp8}),
                         FormatNames);

// One request through the real scheduler.
struct PrunedRun {
  ScheduledEngine::Client client;
  std::vector<std::vector<float>> logits;
};

struct PrunedDecoding {
  const char* name;
  DecodeMode mode;
  int32_t look_back = 0;
};

PrunedRun RunPruned(const HarnessOptions& options, const PrunedDecoding& decoding,
                    std::vector<float> keep, int32_t max_rows_per_step) {
  constexpr int32_t kPrompt = 70, kGenerated = 5;
  const auto harness = Load("tiny-llama3", options);
  ScheduledEngine engine(harness.get(), {.max_rows_per_step = max_rows_per_step});
  PrefillPolicy policy;
  policy.keep = std::move(keep);
  policy.min_keep = 8;
  policy.decode = decoding.mode;
  policy.look_back = decoding.look_back;
  policy.revival_budget = 3;
  policy.rules.window = 2;
  policy.rules.pinned = {{30, 33}};
  const SeqId id = engine.Submit(Prompt(kPrompt), kGenerated, policy);
  engine.RunToEnd();
  PrunedRun run = {engine.client(id), {}};
  EXPECT_TRUE(run.client.finish && run.client.finish->status.ok());
  for (int32_t i = 0; i < kGenerated; ++i) {
    run.logits.push_back(engine.Logits(id, kPrompt + i - 1));
  }
  return run;
}

class PrunedParity : public ::testing::TestWithParam<PrunedDecoding> {
 protected:
  void SetUp() override {
    if (Load("tiny-llama3", device_) == nullptr) GTEST_SKIP() << "no CUDA device";
  }
  const HarnessOptions device_ = {.backend = "cuda", .boundaries = {1, 2}};
  const HarnessOptions host_ = {.boundaries = {1, 2}};
};

TEST_P(PrunedParity, KeepsAndRevivesTheTokensThatTheCpuDoes) {
  const PrunedRun host = RunPruned(host_, GetParam(), {0.5f, 0.2f}, 100);
  const PrunedRun device = RunPruned(device_, GetParam(), {0.5f, 0.2f}, 100);
  EXPECT_EQ(host.client.tokens, device.client.tokens);
  ASSERT_EQ(host.client.cuts.size(), device.client.cuts.size());
  for (size_t step = 0; step < host.client.cuts.size(); ++step) {
    const auto &want = host.client.cuts[step], &got = device.client.cuts[step];
    ASSERT_EQ(want.size(), got.size()) << "step " << step;
    for (size_t c = 0; c < want.size(); ++c) {
      EXPECT_EQ(want[c].chosen, got[c].chosen) << "step " << step << " cut " << c;
      EXPECT_EQ(want[c].revived, got[c].revived) << "step " << step << " cut " << c;
    }
  }
  for (size_t i = 0; i < host.logits.size(); ++i) ExpectNear(host.logits[i], device.logits[i]);
}

TEST_P(PrunedParity, TilesDoNotMatterAndKeepingAllIsExact) {
  const PrunedRun whole = RunPruned(device_, GetParam(), {0.5f, 0.2f}, 100);
  EXPECT_EQ(whole.logits, RunPruned(device_, GetParam(), {0.5f, 0.2f}, 23).logits);
  const PrunedRun exact = RunPruned(device_, GetParam(), {}, 100);
  EXPECT_NE(whole.logits, exact.logits);
  // The share rounds up to the whole prompt: all of the machinery runs.
  EXPECT_EQ(exact.logits, RunPruned(device_, GetParam(), {0.9999f, 0.9998f}, 40).logits);
}

INSTANTIATE_TEST_SUITE_P(cuda, PrunedParity,
                         testing::Values(PrunedDecoding{"Static", DecodeMode::kStatic},
                                         PrunedDecoding{"Lazy", DecodeMode::kLazy},
                                         PrunedDecoding{"Strict", DecodeMode::kStrict},
                                         PrunedDecoding{"Phantom", DecodeMode::kPhantom},
                                         PrunedDecoding{"Late", DecodeMode::kLate},
                                         PrunedDecoding{"LateLookingBack", DecodeMode::kLate, 4}),
                         [](const auto& info) { return std::string(info.param.name); });

}  // namespace
}  // namespace skim
