#include "kernels/cpu/sample.h"

#include <algorithm>
#include <limits>

#include "kernels/cpu/row_kernels.h"
#include "kernels/sample_rng.h"

namespace skim {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

// The first of the highest logits; kNoToken if all are -inf.
TokenId Greedy(std::span<const float> logits) {
  TokenId best = kNoToken;
  float highest = -kInfinity;
  for (size_t i = 0; i < logits.size(); ++i) {
    if (logits[i] > highest) {
      highest = logits[i];
      best = static_cast<TokenId>(i);
    }
  }
  return best;
}

// The `count` highest logits as log-probabilities, best first.
std::vector<TokenLogprob> TopLogprobs(std::span<const float> logits, double lse, size_t count) {
  const auto better = [](const TokenLogprob& a, const TokenLogprob& b) {
    return a.logprob != b.logprob ? a.logprob > b.logprob : a.token < b.token;
  };
  count = std::min(count, logits.size());
  std::vector<TokenLogprob> top;  // a heap of logits, the worst at the front
  if (count == 0) return top;
  top.reserve(count);
  for (size_t i = 0; i < logits.size(); ++i) {
    if (top.size() == count) {
      if (!(logits[i] > top.front().logprob)) continue;
      std::pop_heap(top.begin(), top.end(), better);
      top.pop_back();
    }
    top.push_back({static_cast<TokenId>(i), logits[i]});
    std::push_heap(top.begin(), top.end(), better);
  }
  std::sort_heap(top.begin(), top.end(), better);
  for (TokenLogprob& entry : top) entry.logprob = static_cast<float>(entry.logprob - lse);
  return top;
}

SampledToken SampleOne(Isa isa, const SampleRow& row, std::span<const float> logits,
                       RowScratch& scratch) {
  SampledToken result;
  const LogitRange range =
      RowKernelsOf(isa).scan(logits.data(), static_cast<int64_t>(logits.size()));
  if (range.has_nan_or_inf || range.max == -kInfinity) {
    result.finite = false;
    return result;
  }
  if (row.score >= 0) {
    if (static_cast<size_t>(row.score) < logits.size()) result.token = row.score;
  } else {
    const std::span<const float> adjusted = AdjustLogits(row, logits, scratch);
    result.token = row.temperature > 0
                       ? MakeDistribution(isa, row, adjusted, scratch)
                             .Draw(UniformDraw(row.seed, row.position, DrawPurpose::kToken))
                       : Greedy(adjusted);
  }
  if (row.top_logprobs >= 0) {
    const double lse = LogSumExp(isa, logits);
    if (result.token != kNoToken) {
      result.logprob = static_cast<float>(logits[result.token] - lse);
    }
    result.top = TopLogprobs(logits, lse, row.top_logprobs);
  }
  return result;
}

}  // namespace

void CpuSample(ThreadPool& pool, Isa isa, SampleScratch& scratch, const SampleArgs& args,
               std::span<SampledToken> results) {
  scratch.threads.resize(pool.threads());
  const int64_t columns = args.logits.cols;
  const auto sample_some = [&](int thread, int threads) {
    for (size_t r = thread; r < args.rows.size(); r += threads) {
      const auto row = static_cast<int64_t>(r);
      SampledToken& result = results[r];
      result = SampleOne(isa, args.rows[r], {args.logits.Row(row), static_cast<size_t>(columns)},
                         scratch.threads[thread]);
      result.token = args.columns.Of(row, result.token, columns);
      for (TokenLogprob& top : result.top) top.token = args.columns.Of(row, top.token, columns);
      if (args.drawn != nullptr) args.drawn[r] = result.token;
    }
  };
  if (args.rows.size() == 1) {
    sample_some(0, 1);
  } else {
    pool.Run([&](int thread) { sample_some(thread, pool.threads()); });
  }
}

}  // namespace skim
