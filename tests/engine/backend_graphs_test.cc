// Decode steps that are replayed as CUDA graphs: which are, and that nothing else is different.
#include <gtest/gtest.h>

#include <functional>
#include <map>

#include "tests/engine/golden.h"
#include "tests/engine/scheduled_engine.h"
#include "tests/ptxsim/from_tests.h"

namespace skim {
namespace {

// Null where there is no device.
std::unique_ptr<EngineHarness> Load(const std::string& model, HarnessOptions options) {
  options.backend = "cuda";
  options.page_tokens = 16;
  options.kv_pages = 256;
  options.max_rows = 64;
  auto harness = EngineHarness::Load(GoldenPath(model), options);
  if (harness.ok()) return *std::move(harness);
  EXPECT_EQ(harness.status().code(), absl::StatusCode::kFailedPrecondition) << harness.status();
  return nullptr;
}

std::vector<TokenId> Prompt(int32_t length, int32_t step) {
  std::vector<TokenId> prompt(static_cast<size_t>(length));
  for (size_t i = 0; i < prompt.size(); ++i) prompt[i] = static_cast<TokenId>(i * step % 250);
  return prompt;
}

// What was drawn and from which logits, and how often each step was replayed.
struct Served {
  std::vector<std::vector<TokenId>> tokens;
  std::vector<std::vector<float>> logits;
  std::vector<int64_t> replays;
};

// Users who come, leave and are preempted; the second draws with penalties, whose lists grow.
Served ServeThree(EngineHarness* harness, WeightFormat format) {
  Served served;
  HarnessSequence a = harness->NewSequence(Prompt(14, 53)), b = harness->NewSequence(Prompt(5, 17)),
                  c = harness->NewSequence(Prompt(9, 29));
  a.format = c.format = format;
  b.sampling.frequency_penalty = 0.5f;
  b.sampling.bias = {{7, 1.0f}};
  const auto step = [&](const std::vector<EngineHarness::Work>& work, int times = 1) {
    for (int i = 0; i < times; ++i) {
      StepResult result;
      const absl::Status status = harness->Step(work, &result);
      EXPECT_TRUE(status.ok()) << status;
      served.replays.push_back(result.replays);
      for (const auto& [sequence, rows] : work) {
        if (!harness->HasLogits(sequence->id, sequence->computed - 1)) continue;
        served.logits.push_back(harness->Logits(sequence->id, sequence->computed - 1));
      }
    }
  };
  step({{&a, 11}});
  step({{&a, 3}, {&b, 5}});
  step({{&a, 1}, {&b, 1}}, 4);  // the pages of `a` get more
  step({{&c, 9}, {&a, 1}, {&b, 1}});
  step({{&a, 1}, {&b, 1}, {&c, 1}}, 3);
  step({{&a, 1}, {&c, 1}}, 3);  // `b` leaves
  harness->Preempt(&a);
  step({{&c, 1}}, 3);
  // On other pages; no more rows than at first, so that no scratch memory grows.
  step({{&a, 10}, {&c, 1}}, 2);
  step({{&a, static_cast<int32_t>(a.tokens.size()) - 20}, {&c, 1}});
  step({{&a, 1}, {&c, 1}}, 2);
  served.tokens = {a.tokens, b.tokens, c.tokens};
  return served;
}

// Of the steps above: the second of the same launches, and all after it. Two users of one format
// are like any other two.
std::vector<int64_t> Replays(WeightFormat format) {
  const int64_t known = format == WeightFormat::kBf16;
  return {0, 0, 0, 1, 1, 1, 0, 0, 1, 1, known, 1, 1, 0, 1, 1, 0, 0, 0, 1, 1};
}

struct Formats {
  WeightFormat weights;
  KvFormat kv;
};

class GraphParity : public ::testing::TestWithParam<Formats> {};

TEST_P(GraphParity, StepsAreReplayedAndEveryLogitHasTheSameBits) {
  std::vector<WeightFormat> formats = {WeightFormat::kBf16};
  if (GetParam().weights != WeightFormat::kBf16) formats.push_back(GetParam().weights);
  HarnessOptions options = {.kv_format = GetParam().kv, .boundaries = {1}, .formats = formats};
  options.cuda_graphs = false;
  const auto without = Load("tiny-qwen3", options);
  if (without == nullptr) GTEST_SKIP() << "no CUDA device";
  options.cuda_graphs = true;
  const auto with = Load("tiny-qwen3", options);
  const Served want = ServeThree(without.get(), GetParam().weights);
  const Served got = ServeThree(with.get(), GetParam().weights);
  EXPECT_EQ(got.tokens, want.tokens);
  EXPECT_EQ(got.logits, want.logits);
  const std::vector<int64_t> replays = Replays(GetParam().weights);
  EXPECT_EQ(want.replays, std::vector<int64_t>(replays.size()));
  EXPECT_EQ(got.replays, replays);
  if (GetParam().weights != WeightFormat::kBf16) return;
  // Without a look at the logits nothing parts the head from sampling: still one graph a step, of
  // other kernels than those above.
  with->executor().SetLogitsProbe({});
  const Served again = ServeThree(with.get(), GetParam().weights);
  EXPECT_EQ(again.tokens, want.tokens);
  EXPECT_EQ(again.replays, replays);
}

INSTANTIATE_TEST_SUITE_P(cuda, GraphParity,
                         testing::Values(Formats{WeightFormat::kBf16, KvFormat::kBf16},
                                         Formats{WeightFormat::kFp8, KvFormat::kFp8},
                                         Formats{WeightFormat::kInt8, KvFormat::kInt8},
                                         Formats{WeightFormat::kInt4, KvFormat::kBf16}),
                         [](const auto& info) {
                           return std::string(WeightFormatName(info.param.weights)) + "_kv_" +
                                  std::string(KvFormatName(info.param.kv));
                         });

struct Kind {
  std::string name;
  std::function<void(Request*)> change;
};

class GraphedRequests : public ::testing::TestWithParam<Kind> {};

// Through the scheduler: pruned prompts, and drafts.
TEST_P(GraphedRequests, AreToldWhatTheyAreWithoutGraphs) {
  std::vector<std::vector<TokenId>> tokens;
  std::vector<std::vector<std::vector<float>>> logits;
  for (const bool graphs : {false, true}) {
    HarnessOptions options = {.boundaries = {1, 2},
                              .formats = {WeightFormat::kBf16, WeightFormat::kInt8}};
    options.cuda_graphs = graphs;
    const auto harness = Load("tiny-llama3", options);
    if (harness == nullptr) GTEST_SKIP() << "no CUDA device";
    ScheduledEngine engine(harness.get(), {.max_rows_per_step = 64});
    std::vector<SeqId> ids;
    std::map<SeqId, int32_t> last_of;  // position of the prompt's last token
    for (const int32_t length : {24, 17}) {
      Request request;
      request.prompt = Prompt(length, 17);
      request.sampling.temperature = 0;
      request.sampling.max_tokens = 8;
      GetParam().change(&request);
      ids.push_back(engine.Submit(std::move(request)));
      last_of[ids.back()] = length - 1;
    }
    engine.RunToEnd();
    EXPECT_EQ(engine.replays() > 0, graphs);
    for (const SeqId id : ids) {
      const ScheduledEngine::Client& client = engine.client(id);
      EXPECT_TRUE(client.finish && client.finish->status.ok());
      tokens.push_back(client.tokens);
      logits.emplace_back();
      for (size_t i = 0; i < client.tokens.size(); ++i) {
        logits.back().push_back(engine.Logits(id, last_of.at(id) + static_cast<int32_t>(i)));
      }
    }
  }
  for (size_t i : {0, 1}) {
    EXPECT_EQ(tokens[i], tokens[2 + i]);
    EXPECT_EQ(logits[i], logits[2 + i]);
  }
}

void Prune(Request* request, DecodeMode mode) {
  request->prefill.keep = {0.6f, 0.4f};
  request->prefill.min_keep = 8;
  request->prefill.decode = mode;
}

INSTANTIATE_TEST_SUITE_P(cuda, GraphedRequests,
                         testing::Values(Kind{"exact", [](Request*) {}},
                                         Kind{"pruned",
                                              [](Request* r) { Prune(r, DecodeMode::kStatic); }},
                                         Kind{"first_layers",
                                              [](Request* r) {
                                                r->speculation.drafter = DrafterKind::kSelf;
                                                r->speculation.max_drafts = 2;
                                                r->speculation.exit_layer = 1;
                                              }},
                                         Kind{"int8_pruned",
                                              [](Request* r) {
                                                Prune(r, DecodeMode::kStatic);
                                                r->speculation.drafter = DrafterKind::kSelf;
                                                r->speculation.max_drafts = 2;
                                                r->speculation.exit_layer = 1;
                                                r->speculation.draft_format = WeightFormat::kInt8;
                                              }}),
                         [](const auto& info) { return info.param.name; });

// Loads a model and generates some tokens.
absl::StatusOr<std::vector<TokenId>> LoadAndGenerate() {
  auto harness =
      EngineHarness::Load(GoldenPath("tiny-qwen3"),
                          {.backend = "cuda", .page_tokens = 16, .kv_pages = 64, .max_rows = 16});
  if (!harness.ok()) return harness.status();
  HarnessSequence sequence = (*harness)->NewSequence({1, 2, 3});
  if (absl::Status status = (*harness)->Generate(&sequence, 3, 3); !status.ok()) return status;
  return sequence.tokens;
}

TEST(CudaGraphFaults, WhicheverLaunchFailsThereIsAStatusAndNothingIsLeftBehind) {
  auto* const fail = ptxsim::FailLaunch();
  if (fail == nullptr) GTEST_SKIP() << "no simulated device";
  const size_t launches = ptxsim::GraphLaunches()();
  absl::Status status;
  long n = 0;
  do {
    fail(n += 3);  // kernels one by one, captured ones, and graphs
    status = LoadAndGenerate().status();
    fail(0);
    ASSERT_EQ(ptxsim::LiveAllocations()(), 0u) << "after launch " << n << " failed: " << status;
    ASSERT_EQ(ptxsim::ExecutableGraphs()(), 0u) << "after launch " << n << " failed: " << status;
    if (!status.ok()) {
      EXPECT_EQ(status.code(), absl::StatusCode::kInternal) << status;
    }
  } while (!status.ok());
  EXPECT_GT(n, 60);
  EXPECT_GT(ptxsim::GraphLaunches()(), launches);
}

TEST(CudaGraphFaults, WithoutMemoryForGraphsStepsAreAsWithoutThem) {
  auto* const fail = ptxsim::FailInstantiation();
  if (fail == nullptr) GTEST_SKIP() << "no simulated device";
  const auto want = LoadAndGenerate();
  const size_t launches = ptxsim::GraphLaunches()();
  fail(1);
  const auto got = LoadAndGenerate();
  fail(0);
  ASSERT_TRUE(want.ok() && got.ok()) << want.status() << got.status();
  EXPECT_EQ(*got, *want);
  EXPECT_EQ(ptxsim::GraphLaunches()(), launches);
}

}  // namespace
}  // namespace skim
