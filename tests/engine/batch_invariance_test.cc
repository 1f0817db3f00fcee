// G1: a request's logits are bit-identical alone, in any batch, under any chunking, page
// size and segmentation, with a shared prefix, after preemption, among others of other weight
// formats, for any thread count.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <numeric>
#include <random>
#include <set>
#include <string>

#include "kernels/cpu/isa.h"
#include "tests/engine/golden.h"
#include "tests/engine/harness.h"

namespace skim {
namespace {

constexpr int32_t kPrompt = 83;
constexpr int32_t kDecode = 12;

std::vector<TokenId> RandomPrompt(int32_t length, int32_t vocab, uint32_t seed) {
  std::mt19937 rng(seed);
  std::vector<TokenId> prompt;
  for (int32_t i = 0; i < length; ++i) prompt.push_back(static_cast<TokenId>(rng() % vocab));
  return prompt;
}

// The logits of every position of one generation, and its tokens.
struct Trace {
  std::vector<TokenId> tokens;
  std::vector<std::vector<float>> logits;
};

Trace Collect(const EngineHarness& harness, const HarnessSequence& sequence, int32_t from = 0) {
  Trace trace;
  trace.tokens = sequence.tokens;
  for (int32_t p = from; p < sequence.computed; ++p) {
    if (harness.HasLogits(sequence.id, p)) trace.logits.push_back(harness.Logits(sequence.id, p));
  }
  return trace;
}

// Bit for bit: comparing floats with == would let -0 pass for 0.
void ExpectSameBits(const Trace& a, const Trace& b, const std::string& what) {
  ASSERT_EQ(a.tokens, b.tokens) << what;
  ASSERT_EQ(a.logits.size(), b.logits.size()) << what;
  for (size_t i = 0; i < a.logits.size(); ++i) {
    ASSERT_EQ(std::memcmp(a.logits[i].data(), b.logits[i].data(),
                          a.logits[i].size() * sizeof(float)), 0)
        << what << ", position " << i;
  }
}

class BatchInvariance
    : public ::testing::TestWithParam<std::tuple<std::string, std::string, KvFormat>> {
 protected:
  std::unique_ptr<EngineHarness> Load(HarnessOptions options = {}) {
    options.isa = std::get<1>(GetParam());
    options.kv_format = std::get<2>(GetParam());
    auto harness = EngineHarness::Load(GoldenPath(std::get<0>(GetParam())), options);
    EXPECT_TRUE(harness.ok()) << harness.status();
    return *std::move(harness);
  }
  std::vector<TokenId> Prompt(const EngineHarness& harness, int32_t length, uint32_t seed) {
    return RandomPrompt(length, harness.config().vocab_size, seed);
  }
  Trace Alone(HarnessOptions options, int32_t chunk) {
    auto harness = Load(options);
    HarnessSequence sequence = harness->NewSequence(Prompt(*harness, kPrompt, 5));
    EXPECT_TRUE(harness->Generate(&sequence, chunk, kDecode).ok());
    Trace trace = Collect(*harness, sequence);
    EXPECT_EQ(trace.logits.size(), kPrompt + kDecode);
    return trace;
  }
};

TEST_P(BatchInvariance, ChunksPagesSegmentsAndThreadsDoNotMatter) {
  const Trace reference = Alone({}, kPrompt);
  for (int32_t chunk : {1, 7, 64, 512}) {
    ExpectSameBits(reference, Alone({}, chunk), "chunk " + std::to_string(chunk));
  }
  for (int32_t page : {16, 64}) {
    ExpectSameBits(reference, Alone({.page_tokens = page}, 7), "page " + std::to_string(page));
  }
  for (int threads : {2, 3}) {
    ExpectSameBits(reference, Alone({.threads = threads}, 64), "threads " + std::to_string(threads));
  }
  ExpectSameBits(reference, Alone({.boundaries = {1}}, 7), "two segments");
  std::vector<int32_t> every_layer(Load()->config().layers - 1);
  std::iota(every_layer.begin(), every_layer.end(), 1);
  ExpectSameBits(reference, Alone({.boundaries = every_layer}, 64), "a segment per layer");
}

TEST_P(BatchInvariance, FifteenOthersDoNotMatter) {
  const Trace reference = Alone({}, kPrompt);
  auto harness = Load({.threads = 2});
  std::mt19937 rng(11);
  HarnessSequence subject = harness->NewSequence(Prompt(*harness, kPrompt, 5));
  std::vector<HarnessSequence> others;
  for (uint32_t i = 0; i < 15; ++i) {
    others.push_back(harness->NewSequence(Prompt(*harness, 1 + static_cast<int32_t>(rng() % 90), 100 + i)));
  }
  while (subject.computed < kPrompt + kDecode) {
    std::vector<EngineHarness::Work> work;
    auto add = [&](HarnessSequence& s, int32_t chunk) {
      const int32_t left = static_cast<int32_t>(s.tokens.size()) - s.computed;
      work.push_back({&s, std::min(left, chunk)});
    };
    for (HarnessSequence& other : others) {
      if (rng() % 4 != 0 && other.computed < 120) add(other, 1 + static_cast<int32_t>(rng() % 20));
    }
    const size_t at = rng() % (work.size() + 1);
    add(subject, 1 + static_cast<int32_t>(rng() % 30));
    std::swap(work[at], work.back());
    ASSERT_TRUE(harness->Step(work).ok());
  }
  ExpectSameBits(reference, Collect(*harness, subject), "among 15 others");
}

// Four requests of each format in one batch, in no order, against each one alone in a model
// that has only its format.
TEST_P(BatchInvariance, OthersInOtherWeightFormatsDoNotMatter) {
  const std::vector<WeightFormat> formats = {WeightFormat::kInt8, WeightFormat::kBf16,
                                             WeightFormat::kInt4, WeightFormat::kFp8};
  auto harness = Load({.threads = 2, .formats = formats});
  std::mt19937 rng(17);
  std::vector<HarnessSequence> batch;
  for (uint32_t i = 0; i < 16; ++i) {
    const auto length = static_cast<int32_t>(1 + rng() % 60);
    batch.push_back(harness->NewSequence(Prompt(*harness, length, 50 + i)));
    batch.back().format = formats[i % 4];
  }
  const auto end = [](const HarnessSequence& s) { return s.prompt_tokens + kDecode; };
  while (std::ranges::any_of(batch, [&](auto& s) { return s.computed < end(s); })) {
    std::vector<EngineHarness::Work> work;
    for (HarnessSequence& s : batch) {
      const int32_t left = std::min(static_cast<int32_t>(s.tokens.size()), end(s)) - s.computed;
      if (left > 0) work.push_back({&s, std::min(left, static_cast<int32_t>(1 + rng() % 25))});
    }
    std::ranges::shuffle(work, rng);
    ASSERT_TRUE(harness->Step(work).ok());
  }
  for (const HarnessSequence& s : batch) {
    auto alone = Load({.formats = {s.format}});
    HarnessSequence twin =
        alone->NewSequence({s.tokens.begin(), s.tokens.begin() + s.prompt_tokens});
    twin.format = s.format;
    ASSERT_TRUE(alone->Generate(&twin, 64, kDecode).ok());
    ExpectSameBits(Collect(*alone, twin), Collect(*harness, s),
                   std::string(WeightFormatName(s.format)) + " beside others");
  }
}

// Else the test above would pass with one format for all.
TEST_P(BatchInvariance, EveryWeightFormatHasLogitsOfItsOwn) {
  const std::vector<WeightFormat> formats = {WeightFormat::kBf16, WeightFormat::kFp8,
                                             WeightFormat::kInt8, WeightFormat::kInt4};
  auto harness = Load({.formats = formats});
  std::set<std::vector<float>> seen;
  for (const WeightFormat format : formats) {
    HarnessSequence sequence = harness->NewSequence(Prompt(*harness, 9, 5));
    sequence.format = format;
    ASSERT_TRUE(harness->Generate(&sequence, 9, 0).ok());
    seen.insert(harness->Logits(sequence.id, 8));
  }
  EXPECT_EQ(seen.size(), formats.size());
}

TEST_P(BatchInvariance, ASharedPrefixDoesNotMatter) {
  auto harness = Load();
  const std::vector<TokenId> prompt = Prompt(*harness, kPrompt, 5);
  HarnessSequence first = harness->NewSequence(prompt);
  ASSERT_TRUE(harness->Generate(&first, 13, kDecode).ok());
  HarnessSequence second = harness->NewSequence(prompt);
  harness->SharePrefix(first, /*blocks=*/2, &second);
  ASSERT_TRUE(harness->Generate(&second, 64, kDecode).ok());
  ExpectSameBits(Collect(*harness, first, /*from=*/64), Collect(*harness, second), "prefix hit");
}

TEST_P(BatchInvariance, PreemptionDoesNotMatter) {
  const Trace reference = Alone({}, kPrompt);
  auto harness = Load({.kv_pages = 16});
  HarnessSequence subject = harness->NewSequence(Prompt(*harness, kPrompt, 5));
  ASSERT_TRUE(harness->Generate(&subject, 64, 5).ok());
  harness->Preempt(&subject);
  // Someone else dirties the pages in between.
  HarnessSequence other = harness->NewSequence(Prompt(*harness, 200, 9));
  ASSERT_TRUE(harness->Generate(&other, 100, 3).ok());
  harness->Preempt(&other);
  // The generated tokens are part of what is recomputed.
  while (subject.computed < kPrompt + kDecode) {
    const int32_t left = static_cast<int32_t>(subject.tokens.size()) - subject.computed;
    ASSERT_TRUE(harness->Step({{&subject, std::min(left, 29)}}).ok());
  }
  ExpectSameBits(reference, Collect(*harness, subject), "after preemption");
}

// The row of one token may leave the stack at any layer and go on in a later step.
TEST_P(BatchInvariance, LeavingAndReenteringAtALayerDoesNotMatter) {
  const Trace reference = Alone({}, kPrompt);
  for (int32_t cut = 1;; ++cut) {
    auto harness = Load();
    const auto layers = static_cast<int16_t>(harness->config().layers);
    if (cut == layers) break;
    HarnessSequence subject = harness->NewSequence(Prompt(*harness, kPrompt, 5));
    harness->ReservePages(&subject, kPrompt);
    harness->ReserveHidden(&subject, kPrompt);
    auto run = [&](int16_t enter, int16_t leave) {
      StepPlan plan;
      for (int32_t p = 0; p < kPrompt; ++p) {
        plan.tokens.push_back(subject.tokens[p]);
        plan.positions.push_back(p);
        plan.enter.push_back(enter);
        plan.leave.push_back(leave);
      }
      plan.sequences.push_back(harness->Entry(subject, 0, kPrompt));
      plan.sequences[0].logits = leave == layers ? LogitsWanted::kAll : LogitsWanted::kNone;
      plan.sequences[0].draws = leave == layers;
      StepResult result;
      ASSERT_TRUE(harness->executor().Execute(plan, &result).ok());
      if (leave == layers) subject.tokens.push_back(result.sequences[0].sampled[0].token);
    };
    run(0, static_cast<int16_t>(cut));
    run(static_cast<int16_t>(cut), layers);
    subject.computed = kPrompt;
    ASSERT_TRUE(harness->Generate(&subject, 1, kDecode).ok());
    ExpectSameBits(reference, Collect(*harness, subject), "cut at " + std::to_string(cut));
  }
}

// Half of the rows leave early, the others run through: a step with two row sets.
TEST_P(BatchInvariance, RowsOfDifferentIntervalsShareAStep) {
  auto harness = Load();
  const auto layers = static_cast<int16_t>(harness->config().layers);
  HarnessSequence alone = harness->NewSequence(Prompt(*harness, 40, 3));
  ASSERT_TRUE(harness->Generate(&alone, 40, 0).ok());
  HarnessSequence decoding = harness->NewSequence(Prompt(*harness, 30, 4));
  ASSERT_TRUE(harness->Generate(&decoding, 30, 3).ok());
  HarnessSequence twin = harness->NewSequence(Prompt(*harness, 30, 4));
  ASSERT_TRUE(harness->Generate(&twin, 30, 2).ok());
  HarnessSequence split = harness->NewSequence(Prompt(*harness, 40, 3));
  harness->ReservePages(&split, 40);
  harness->ReserveHidden(&split, 40);
  harness->ReservePages(&twin, twin.computed + 1);
  for (int16_t part = 0; part < 2; ++part) {
    StepPlan plan;
    auto add = [&](TokenId token, int32_t position, int16_t enter, int16_t leave) {
      plan.tokens.push_back(token);
      plan.positions.push_back(position);
      plan.enter.push_back(enter);
      plan.leave.push_back(leave);
    };
    for (int32_t p = 0; p < 40; ++p) {
      add(split.tokens[p], p, part == 0 ? 0 : 1, part == 0 ? 1 : layers);
    }
    plan.sequences.push_back(harness->Entry(split, 0, 40));
    plan.sequences[0].logits = part == 0 ? LogitsWanted::kNone : LogitsWanted::kAll;
    plan.sequences[0].draws = part == 1;
    if (part == 0) {  // a plain decode row rides along
      add(twin.tokens[twin.computed], twin.computed, 0, layers);
      plan.sequences.push_back(harness->Entry(twin, 40, 1));
      plan.sequences[1].draws = 1;
    }
    StepResult result;
    ASSERT_TRUE(harness->executor().Execute(plan, &result).ok());
    if (part == 0) twin.tokens.push_back(result.sequences[1].sampled[0].token);
    if (part == 1) split.tokens.push_back(result.sequences[0].sampled[0].token);
  }
  split.computed = 40;
  ++twin.computed;
  ExpectSameBits(Collect(*harness, alone), Collect(*harness, split), "split prefill");
  ExpectSameBits(Collect(*harness, decoding), Collect(*harness, twin), "the decode row beside it");
}

std::vector<std::string> Isas() {
  std::vector<std::string> names;
  for (Isa isa : SupportedIsas()) names.emplace_back(IsaName(isa));
  return names;
}

INSTANTIATE_TEST_SUITE_P(
    Tiny, BatchInvariance,
    ::testing::Combine(::testing::Values("tiny-llama3", "tiny-qwen3"), ::testing::ValuesIn(Isas()),
                       ::testing::Values(KvFormat::kBf16, KvFormat::kInt8, KvFormat::kFp8)),
    [](const auto& info) {
      std::string name = std::get<0>(info.param) + "_" + std::get<1>(info.param) + "_" +
                         std::string(KvFormatName(std::get<2>(info.param)));
      for (char& c : name) c = c == '-' ? '_' : c;
      return name;
    });

}  // namespace
}  // namespace skim
