// The distribution that a row is drawn from, after every processor of kernels/sampling.h:
// what the sampler inverts, and what speculative acceptance and its residual need.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "kernels/cpu/isa.h"
#include "kernels/sampling.h"

namespace skim {

// Working memory for one row at a time, reused from row to row.
struct RowScratch {
  struct Candidate {
    float logit;
    TokenId token;
    float weight;
  };
  std::vector<float> adjusted;  // logits after bias, penalties and bans
  std::vector<float> weights;
  std::vector<Candidate> candidates;
  std::vector<int64_t> bin_counts;
  std::vector<double> bin_sums;
  std::vector<double> block_sums;
};

// One RowScratch per thread of the pool, owned beside it.
struct SampleScratch {
  std::vector<RowScratch> threads;
};

// Points into the RowScratch it was made with; valid until that is used again.
struct Distribution {
  std::span<const float> weights;      // by token id; 0 = cannot be drawn
  std::span<const double> block_sums;  // of kBlockTokens weights each
  double total = 0;                    // sum of block_sums in order; 0 = nothing to draw

  static constexpr int kBlockTokens = 256;

  double Probability(TokenId token) const { return weights[token] / total; }
  // Inverts the cumulative distribution in id order; u in [0, 1). kNoToken if total is 0.
  TokenId Draw(double u) const;
};

// bias, penalties, bans: the logits that greedy compares. Returns `logits` itself when the
// row asks for none of these. A result that is NaN counts as -inf, +inf as the largest float.
std::span<const float> AdjustLogits(const SampleRow& row, std::span<const float> logits,
                                    RowScratch& scratch);

// row.temperature > 0. `adjusted` holds no NaN and no +inf.
Distribution MakeDistribution(Isa isa, const SampleRow& row, std::span<const float> adjusted,
                              RowScratch& scratch);

// log(sum(exp(logits))); not all -inf, no NaN, no +inf.
double LogSumExp(Isa isa, std::span<const float> logits);

}  // namespace skim
