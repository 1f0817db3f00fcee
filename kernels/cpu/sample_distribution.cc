#include "kernels/cpu/sample_distribution.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "kernels/cpu/row_kernels.h"

namespace skim {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

// Candidates are sorted into bins by their distance from the highest logit, so that only the
// bin in which a limit falls has to be sorted. The last bin takes everything further away.
constexpr int kBins = 2048;
constexpr float kBinsPerUnit = 32;

using Candidate = RowScratch::Candidate;

bool Likelier(const Candidate& a, const Candidate& b) {
  return a.logit != b.logit ? a.logit > b.logit : a.token < b.token;
}

int BinOf(float logit, float max) {
  const float distance = (max - logit) * kBinsPerUnit;
  return distance < kBins - 1 ? static_cast<int>(distance) : kBins - 1;
}

// The least likely survivor; -inf keeps everything.
struct Cutoff {
  float logit = -kInfinity;
  TokenId token = 0;

  bool Keeps(float x, TokenId id) const {
    return x > logit || (x == logit && id <= token) || logit == -kInfinity;
  }
};

// Top-k, then top-p over what top-k leaves, on binned logits.
class CutoffFinder {
 public:
  CutoffFinder(std::span<const float> logits, float max, RowScratch& scratch)
      : logits_(logits), max_(max), scratch_(scratch) {
    scratch.bin_counts.assign(kBins, 0);
    scratch.bin_sums.assign(kBins, 0);
    for (size_t i = 0; i < logits.size(); ++i) {
      if (logits[i] == -kInfinity) continue;
      const int bin = BinOf(logits[i], max);
      ++scratch.bin_counts[bin];
      scratch.bin_sums[bin] += scratch.weights[i];
    }
  }

  Cutoff Find(int64_t top_k, float top_p) {
    Cutoff cutoff;
    if (top_k > 0) LimitCount(top_k, cutoff);
    if (top_p < 1) LimitMass(top_p, cutoff);
    return cutoff;
  }

 private:
  // Leaves the kept part of the last bin in scratch_.candidates, sorted.
  void LimitCount(int64_t top_k, Cutoff& cutoff) {
    int64_t before = 0;
    for (int bin = 0; bin < kBins; ++bin) {
      const int64_t count = scratch_.bin_counts[bin];
      if (before + count >= top_k) {
        Collect(bin);
        SortFirst(top_k - before);
        last_bin_ = bin;
        scratch_.bin_counts[bin] = top_k - before;
        scratch_.bin_sums[bin] = SumOfCandidates();
        cutoff = {scratch_.candidates.back().logit, scratch_.candidates.back().token};
        return;
      }
      before += count;
    }
  }

  void LimitMass(float top_p, Cutoff& cutoff) {
    double total = 0;
    for (int bin = 0; bin <= last_bin_; ++bin) total += scratch_.bin_sums[bin];
    const double target = std::max(top_p, 0.0f) * total;
    double before = 0;
    for (int bin = 0; bin <= last_bin_; ++bin) {
      const double sum = scratch_.bin_sums[bin];
      if (scratch_.bin_counts[bin] > 0 && before + sum >= target) {
        const int64_t count = scratch_.bin_counts[bin];
        Collect(bin);
        SortFirst(count);
        for (const Candidate& candidate : scratch_.candidates) {
          before += candidate.weight;
          cutoff = {candidate.logit, candidate.token};
          if (before >= target) return;
        }
        return;
      }
      before += sum;
    }
  }

  void Collect(int bin) {
    scratch_.candidates.clear();
    for (size_t i = 0; i < logits_.size(); ++i) {
      if (logits_[i] == -kInfinity || BinOf(logits_[i], max_) != bin) continue;
      scratch_.candidates.push_back({logits_[i], static_cast<TokenId>(i), scratch_.weights[i]});
    }
  }

  void SortFirst(int64_t count) {
    std::vector<Candidate>& all = scratch_.candidates;
    if (count < static_cast<int64_t>(all.size())) {
      std::nth_element(all.begin(), all.begin() + count, all.end(), Likelier);
      all.resize(count);
    }
    std::sort(all.begin(), all.end(), Likelier);
  }

  double SumOfCandidates() const {
    double sum = 0;
    for (const Candidate& candidate : scratch_.candidates) sum += candidate.weight;
    return sum;
  }

  std::span<const float> logits_;
  float max_;
  RowScratch& scratch_;
  int last_bin_ = kBins - 1;
};

void DropUnlikely(std::span<const float> logits, const Cutoff& cutoff, float min_weight,
                  RowScratch& scratch) {
  const size_t n = logits.size();
  for (size_t begin = 0, b = 0; begin < n; begin += Distribution::kBlockTokens, ++b) {
    const size_t end = std::min(n, begin + Distribution::kBlockTokens);
    double sum = 0;
    for (size_t i = begin; i < end; ++i) {
      float& weight = scratch.weights[i];
      if (weight < min_weight || !cutoff.Keeps(logits[i], static_cast<TokenId>(i))) weight = 0;
      sum += weight;
    }
    scratch.block_sums[b] = sum;
  }
}

float Tame(float logit) {
  if (std::isnan(logit)) return -kInfinity;
  return std::min(logit, std::numeric_limits<float>::max());
}

}  // namespace

TokenId Distribution::Draw(double u) const {
  const double target = u * total;
  double before = 0;
  TokenId last = kNoToken;  // rounding may leave the target just past the last token
  for (size_t b = 0; b < block_sums.size(); ++b) {
    if (block_sums[b] == 0) continue;
    const bool inside = before + block_sums[b] > target;
    const size_t begin = b * kBlockTokens;
    const size_t end = std::min(weights.size(), begin + kBlockTokens);
    if (inside || b + 1 == block_sums.size()) {
      double sum = before;
      for (size_t i = begin; i < end; ++i) {
        if (weights[i] == 0) continue;
        sum += weights[i];
        last = static_cast<TokenId>(i);
        if (sum > target) return last;
      }
      if (inside) return last;
    }
    before += block_sums[b];
  }
  return last;
}

std::span<const float> AdjustLogits(const SampleRow& row, std::span<const float> logits,
                                    RowScratch& scratch) {
  const bool penalties =
      row.repetition_penalty != 1 || row.frequency_penalty != 0 || row.presence_penalty != 0;
  if (row.bias.empty() && row.banned.empty() && !(penalties && !row.counts.empty())) {
    return logits;
  }
  std::vector<float>& x = scratch.adjusted;
  x.assign(logits.begin(), logits.end());
  const auto known = [&](TokenId token) {
    return token >= 0 && static_cast<size_t>(token) < x.size();
  };
  for (const LogitBias& bias : row.bias) {
    if (known(bias.token)) x[bias.token] = Tame(x[bias.token] + bias.bias);
  }
  if (penalties) {
    for (const TokenCount& count : row.counts) {
      if (!known(count.token)) continue;
      float& logit = x[count.token];
      if (count.in_prompt + count.in_output > 0) {
        logit = logit > 0 ? logit / row.repetition_penalty : logit * row.repetition_penalty;
      }
      logit -= row.frequency_penalty * static_cast<float>(count.in_output);
      if (count.in_output > 0) logit -= row.presence_penalty;
      logit = Tame(logit);
    }
  }
  for (TokenId token : row.banned) {
    if (known(token)) x[token] = -kInfinity;
  }
  return x;
}

Distribution MakeDistribution(Isa isa, const SampleRow& row, std::span<const float> adjusted,
                              RowScratch& scratch) {
  const RowKernels& kernels = RowKernelsOf(isa);
  const int64_t n = static_cast<int64_t>(adjusted.size());
  constexpr int kBlock = Distribution::kBlockTokens;
  scratch.weights.resize(n);
  scratch.block_sums.assign((n + kBlock - 1) / kBlock, 0);
  Distribution distribution = {scratch.weights, scratch.block_sums, 0};

  const float max = kernels.scan(adjusted.data(), n).max;
  if (max == -kInfinity) {
    std::fill(scratch.weights.begin(), scratch.weights.end(), 0.0f);
    return distribution;
  }
  // An infinite temperature would make NaN of -inf.
  const float temperature = std::min(row.temperature, std::numeric_limits<float>::max());
  kernels.exp_weights(adjusted.data(), n, max, temperature, kBlock, scratch.weights.data(),
                      scratch.block_sums.data());
  const bool top_k = row.top_k > 0 && row.top_k < n, top_p = row.top_p < 1;
  if (top_k || top_p || row.min_p > 0) {
    Cutoff cutoff;
    if (top_k || top_p) {
      cutoff = CutoffFinder(adjusted, max, scratch).Find(top_k ? row.top_k : 0, row.top_p);
    }
    // The likeliest weight is 1, so min-p compares weights as they are.
    DropUnlikely(adjusted, cutoff, std::min(row.min_p, 1.0f), scratch);
  }
  for (double sum : scratch.block_sums) distribution.total += sum;
  return distribution;
}

double LogSumExp(Isa isa, std::span<const float> logits) {
  const RowKernels& kernels = RowKernelsOf(isa);
  const int64_t n = static_cast<int64_t>(logits.size());
  constexpr int64_t kChunk = Distribution::kBlockTokens;
  const float max = kernels.scan(logits.data(), n).max;
  double total = 0;
  for (int64_t i = 0; i < n; i += kChunk) {
    double sum;
    kernels.exp_weights(logits.data() + i, std::min(kChunk, n - i), max, 1, kChunk, nullptr, &sum);
    total += sum;
  }
  return max + std::log(total);
}

}  // namespace skim
