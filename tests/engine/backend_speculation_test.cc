// Speculation on the CUDA backend: with drafts of every kind that needs no second set of weights,
// on exact and on pruned prompts, a request is told what the CPU tells it without any.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>

#include "tests/engine/copied_model.h"
#include "tests/engine/scheduled_engine.h"

namespace skim {
namespace {

constexpr char kModel[] = "tiny-llama3";  // three layers
constexpr int32_t kGenerated = 7;
constexpr float kRelative = 2e-2f;  // of the largest logit, as in backend_parity_test.cc

// Its first exit has an adapter.
std::string ModelPath() {
  static CopiedModel model(kModel);
  static const bool written = [] {
    model.WriteBeside(kExitAdapterFile, NoisyAdapters(model.config(), {1}, /*seed=*/1));
    return true;
  }();
  EXPECT_TRUE(written);
  return model.path();
}

struct Drafted {
  std::string name;
  SpeculationPolicy speculation;
  bool pruned = false;
};

SpeculationPolicy Lookup() {
  SpeculationPolicy policy;
  policy.drafter = DrafterKind::kLookup;
  policy.max_drafts = 3;
  policy.min_ngram = 1;
  return policy;
}

SpeculationPolicy Self(int32_t exit_layer, WeightFormat format) {
  SpeculationPolicy policy;
  policy.drafter = DrafterKind::kSelf;
  policy.max_drafts = 2;
  policy.exit_layer = exit_layer;
  policy.draft_format = format;
  return policy;
}

struct Told {
  std::vector<TokenId> tokens;
  std::vector<std::vector<float>> logits;
  DraftCounts drafts;
  int64_t put_off = 0;  // draws that were not waited for
};

// Nothing where there is no device.
std::optional<Told> Ask(const std::string& backend, const Drafted& drafted) {
  const auto harness =
      EngineHarness::Load(ModelPath(), {.backend = backend,
                                        .page_tokens = 16,
                                        .kv_pages = 256,
                                        .max_rows = 64,
                                        .boundaries = {1},
                                        .formats = {WeightFormat::kBf16, WeightFormat::kInt8},
                                        .pending_draws = backend == "cuda" ? 16 : 0});
  if (harness.status().code() == absl::StatusCode::kFailedPrecondition) return std::nullopt;
  EXPECT_TRUE(harness.ok()) << harness.status();
  Request request;
  for (int32_t i = 0; i < 40; ++i) request.prompt.push_back(static_cast<TokenId>(i * 17 % 40));
  request.sampling.temperature = 0;
  request.sampling.max_tokens = kGenerated;
  request.speculation = drafted.speculation;
  if (drafted.pruned) {
    request.prefill.keep = {0.6f};
    request.prefill.min_keep = 8;
    request.prefill.decode = DecodeMode::kStatic;
  }
  const auto last = static_cast<int32_t>(request.prompt.size()) - 1;
  ScheduledEngine engine(harness->get(), {.max_rows_per_step = 64});
  const SeqId id = engine.Submit(std::move(request));
  engine.RunToEnd();
  const ScheduledEngine::Client& client = engine.client(id);
  EXPECT_TRUE(client.finish && client.finish->status.ok());
  Told told = {client.tokens,
               {},
               client.finish ? client.finish->speculation.total() : DraftCounts{},
               engine.put_off()};
  for (int32_t i = 0; i < kGenerated; ++i) told.logits.push_back(engine.Logits(id, last + i));
  return told;
}

class SpeculationParity : public testing::TestWithParam<Drafted> {};

TEST_P(SpeculationParity, TellsWhatTheCpuTellsWithoutDrafts) {
  const auto device = Ask("cuda", GetParam());
  if (!device) GTEST_SKIP() << "no CUDA device";
  Drafted plain = GetParam();
  plain.speculation = {};
  const auto host = Ask("cpu", plain);
  EXPECT_EQ(host->drafts.drafted, 0);
  EXPECT_GT(device->drafts.drafted, 0);
  EXPECT_EQ(device->put_off, device->drafts.passes) << "a round waits once";
  EXPECT_EQ(device->tokens, host->tokens);
  for (int32_t i = 0; i < kGenerated; ++i) {
    std::vector<float> best = host->logits[i];
    std::ranges::nth_element(best, best.begin() + 1, std::greater<>());
    float difference = 0, largest = 0;
    for (size_t v = 0; v < host->logits[i].size(); ++v) {
      difference = std::max(difference, std::abs(host->logits[i][v] - device->logits[i][v]));
      largest = std::max(largest, std::abs(host->logits[i][v]));
    }
    EXPECT_LE(difference, kRelative * largest) << "token " << i;
    EXPECT_GT(best[0] - best[1], 2 * kRelative * largest) << "a tie says nothing, token " << i;
  }
  // The bits do not depend on who drafts what.
  EXPECT_EQ(device->logits, Ask("cuda", plain)->logits);
}

INSTANTIATE_TEST_SUITE_P(
    cuda, SpeculationParity,
    testing::Values(Drafted{"Lookup", Lookup()}, Drafted{"LookupPruned", Lookup(), true},
                    Drafted{"Int8", Self(3, WeightFormat::kInt8)},
                    Drafted{"Int8Pruned", Self(1, WeightFormat::kInt8), true},
                    Drafted{"ExitLayer", Self(2, WeightFormat::kBf16)},
                    Drafted{"ExitLayerPruned", Self(1, WeightFormat::kBf16), true}),
    [](const auto& info) { return info.param.name; });

}  // namespace
}  // namespace skim
