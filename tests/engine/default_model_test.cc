// The default model against Hugging Face transformers in float32, over real prose, and
// batch invariance at its size.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <iostream>

#include "engine/safetensors.h"
#include "tests/engine/golden.h"
#include "tests/engine/harness.h"

namespace skim {
namespace {

std::vector<TokenId> ProseIds(const SafetensorsFile& golden, size_t count) {
  const std::vector<int64_t> ids = *golden.ReadInt("ids");
  return {ids.begin(), ids.begin() + static_cast<std::ptrdiff_t>(std::min(count, ids.size()))};
}

double LogSumExp(const std::vector<float>& x) {
  const double top = *std::max_element(x.begin(), x.end());
  double sum = 0;
  for (float v : x) sum += std::exp(v - top);
  return top + std::log(sum);
}

// KL(golden || ours) on the partition {64 best tokens of the golden, everything else}.
TEST(DefaultModel, AgreesWithTransformersOverTwoThousandTokensOfProse) {
  auto golden = SafetensorsFile::Open(GoldenPath("smollm2/prose.safetensors"));
  ASSERT_TRUE(golden.ok()) << golden.status();
  const std::vector<TokenId> ids = ProseIds(*golden, SIZE_MAX);
  const std::vector<int64_t> top_ids = *golden->ReadInt("top_ids");
  const std::vector<float> top = *golden->ReadFloat("top_logprobs");
  const std::vector<float> tail = *golden->ReadFloat("tail_logprob");
  const size_t width = top.size() / ids.size();

  auto harness = EngineHarness::Load(DefaultModelPath(), {.threads = 2, .kv_pages = 96});
  ASSERT_TRUE(harness.ok()) << harness.status() << ": run ./run model";
  HarnessSequence sequence = (*harness)->NewSequence(ids);
  ASSERT_TRUE((*harness)->Generate(&sequence, 512, 0).ok());

  double kl = 0;
  size_t agree = 0;
  for (size_t p = 0; p < ids.size(); ++p) {
    const std::vector<float>& logits = (*harness)->Logits(sequence.id, static_cast<int32_t>(p));
    const double normaliser = LogSumExp(logits);
    const auto best = std::max_element(logits.begin(), logits.end()) - logits.begin();
    agree += best == top_ids[p * width];
    double ours_rest = 1;
    for (size_t i = 0; i < width; ++i) {
      const double ours = logits[top_ids[p * width + i]] - normaliser;
      const double theirs = top[p * width + i];
      kl += std::exp(theirs) * (theirs - ours);
      ours_rest -= std::exp(ours);
    }
    kl += std::exp(tail[p]) * (tail[p] - std::log(std::max(ours_rest, 1e-12)));
  }
  const double agreement = static_cast<double>(agree) / static_cast<double>(ids.size());
  kl /= static_cast<double>(ids.size());
  std::cout << "top-1 agreement " << agreement << ", mean KL " << kl << "\n";
  EXPECT_GE(agreement, 0.99);
  EXPECT_LE(kl, 1e-3);
}

// What a format costs on prose: relative increase of perplexity, and how often the best token
// is another one than with bf16.
struct FormatCost {
  double nll = 0;
  double agreement = 0;
};

FormatCost CostOf(EngineHarness& harness, const std::vector<TokenId>& ids, WeightFormat format,
                  std::vector<TokenId>* best_of_bf16) {
  HarnessSequence sequence = harness.NewSequence(ids);
  sequence.format = format;
  EXPECT_TRUE(harness.Generate(&sequence, 512, 0).ok());
  FormatCost cost;
  size_t agree = 0;
  for (size_t p = 0; p + 1 < ids.size(); ++p) {
    const std::vector<float>& logits = harness.Logits(sequence.id, static_cast<int32_t>(p));
    cost.nll += LogSumExp(logits) - logits[ids[p + 1]];
    const auto best = std::max_element(logits.begin(), logits.end()) - logits.begin();
    if (best_of_bf16->size() == p) best_of_bf16->push_back(static_cast<TokenId>(best));
    agree += best == (*best_of_bf16)[p];
  }
  cost.nll /= static_cast<double>(ids.size() - 1);
  cost.agreement = static_cast<double>(agree) / static_cast<double>(ids.size() - 1);
  return cost;
}

TEST(DefaultModel, EveryWeightFormatStaysNearBf16OverProse) {
  auto golden = SafetensorsFile::Open(GoldenPath("smollm2/prose.safetensors"));
  ASSERT_TRUE(golden.ok()) << golden.status();
  const std::vector<TokenId> ids = ProseIds(*golden, SIZE_MAX);
  const std::vector<WeightFormat> formats = {WeightFormat::kBf16, WeightFormat::kFp8,
                                             WeightFormat::kInt8, WeightFormat::kInt4};
  auto harness =
      EngineHarness::Load(DefaultModelPath(), {.threads = 2, .kv_pages = 320, .formats = formats});
  ASSERT_TRUE(harness.ok()) << harness.status();
  std::vector<TokenId> best;
  const FormatCost bf16 = CostOf(**harness, ids, WeightFormat::kBf16, &best);
  // By format: what it may cost at most. The model's weights come from a file of four bits
  // with a scale and an offset per 32, so here int4 loses next to nothing.
  constexpr double kMostIncrease[kWeightFormats] = {0, 0.04, 0.015, 0.015};
  constexpr double kLeastAgreement[kWeightFormats] = {1, 0.9, 0.94, 0.94};
  for (WeightFormat format : {WeightFormat::kFp8, WeightFormat::kInt8, WeightFormat::kInt4}) {
    const FormatCost cost = CostOf(**harness, ids, format, &best);
    const double increase = std::exp(cost.nll - bf16.nll) - 1;
    EXPECT_LE(increase, kMostIncrease[static_cast<int>(format)]);
    EXPECT_GE(cost.agreement, kLeastAgreement[static_cast<int>(format)]);
    std::cout << WeightFormatName(format) << ": perplexity " << std::exp(cost.nll) << " (+"
              << 100 * increase << " %), best token as with bf16 " << 100 * cost.agreement
              << " %\n";
  }
}

// Against bf16 keys and values, over all of the vocabulary.
TEST(DefaultModel, KeysAndValuesInEightBitsBarelyMoveTheDistribution) {
  auto golden = SafetensorsFile::Open(GoldenPath("smollm2/prose.safetensors"));
  ASSERT_TRUE(golden.ok()) << golden.status();
  const std::vector<TokenId> ids = ProseIds(*golden, 1024);
  const auto run = [&](KvFormat format, auto&& see) {
    auto harness = EngineHarness::Load(
        DefaultModelPath(), {.threads = 2, .kv_pages = 64, .kv_format = format});
    ASSERT_TRUE(harness.ok()) << harness.status() << ": run ./run model";
    HarnessSequence sequence = (*harness)->NewSequence(ids);
    ASSERT_TRUE((*harness)->Generate(&sequence, 512, 0).ok());
    for (size_t p = 0; p < ids.size(); ++p) {
      see(p, (*harness)->Logits(sequence.id, static_cast<int32_t>(p)));
    }
  };
  std::vector<std::vector<float>> reference(ids.size());
  run(KvFormat::kBf16, [&](size_t p, const std::vector<float>& logits) { reference[p] = logits; });

  struct Bound {
    KvFormat format;
    double agreement, kl, perplexity;  // the last relative to that of bf16
  };
  for (const Bound& bound : {Bound{KvFormat::kInt8, 0.975, 1.5e-3, 1.005},
                             Bound{KvFormat::kFp8, 0.94, 8e-3, 1.015}}) {
    double kl = 0, nats = 0;
    size_t agree = 0;
    run(bound.format, [&](size_t p, const std::vector<float>& logits) {
      const std::vector<float>& want = reference[p];
      const auto best = std::max_element(want.begin(), want.end()) - want.begin();
      agree += best == std::max_element(logits.begin(), logits.end()) - logits.begin();
      const double want_normaliser = LogSumExp(want), normaliser = LogSumExp(logits);
      for (size_t i = 0; i < want.size(); ++i) {
        const double theirs = want[i] - want_normaliser;
        kl += std::exp(theirs) * (theirs - (logits[i] - normaliser));
      }
      if (p + 1 == ids.size()) return;
      nats += want[ids[p + 1]] - want_normaliser - (logits[ids[p + 1]] - normaliser);
    });
    const double agreement = static_cast<double>(agree) / static_cast<double>(ids.size());
    kl /= static_cast<double>(ids.size());
    const double perplexity = std::exp(nats / static_cast<double>(ids.size() - 1));
    std::cout << KvFormatName(bound.format) << ": top-1 agreement " << agreement << ", mean KL "
              << kl << ", perplexity x " << perplexity << "\n";
    EXPECT_GE(agreement, bound.agreement);
    EXPECT_LE(perplexity, bound.perplexity);
    EXPECT_LE(kl, bound.kl);
  }
}

TEST(DefaultModel, LogitsDoNotDependOnChunksThreadsOrTheBatch) {
  auto golden = SafetensorsFile::Open(GoldenPath("smollm2/prose.safetensors"));
  ASSERT_TRUE(golden.ok());
  const std::vector<TokenId> prompt = ProseIds(*golden, 300);
  std::vector<std::vector<float>> reference;
  std::vector<TokenId> tokens;
  auto check = [&](int threads, int32_t chunk, int companions) {
    auto harness = EngineHarness::Load(DefaultModelPath(), {.threads = threads, .kv_pages = 256});
    ASSERT_TRUE(harness.ok()) << harness.status();
    HarnessSequence subject = (*harness)->NewSequence(prompt);
    std::vector<HarnessSequence> others;
    for (int i = 0; i < companions; ++i) {
      others.push_back((*harness)->NewSequence({prompt.begin() + i, prompt.begin() + 40 + 3 * i}));
    }
    while (subject.computed < 306) {
      std::vector<EngineHarness::Work> work;
      for (HarnessSequence& other : others) {
        work.push_back({&other, std::min<int32_t>(5, static_cast<int32_t>(other.tokens.size()) -
                                                         other.computed)});
      }
      const auto left = static_cast<int32_t>(subject.tokens.size()) - subject.computed;
      work.push_back({&subject, std::min(chunk, left)});
      ASSERT_TRUE((*harness)->Step(work).ok());
    }
    if (tokens.empty()) tokens = subject.tokens;
    EXPECT_EQ(tokens, subject.tokens);
    for (int32_t p = 290; p < 306; ++p) {
      const std::vector<float>& logits = (*harness)->Logits(subject.id, p);
      const auto i = static_cast<size_t>(p - 290);
      if (i >= reference.size()) reference.push_back(logits);
      ASSERT_EQ(std::memcmp(reference[i].data(), logits.data(), logits.size() * sizeof(float)), 0)
          << "threads " << threads << " chunk " << chunk << " position " << p;
    }
  };
  check(1, 512, 0);
  check(2, 512, 0);
  check(2, 64, 0);
  check(1, 7, 0);
  check(2, 64, 15);
}

}  // namespace
}  // namespace skim
