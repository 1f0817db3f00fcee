// What the sampling op needs for one row of logits. All spans are borrowed and must
// outlive the call.
//
// Order of operations on a row: bias, repetition penalty (CTRL: divide positive, multiply
// negative logits of seen tokens), frequency and presence penalties (on generated tokens),
// banned tokens, temperature, top-k, top-p, min-p, draw. Log-probabilities are those of the
// raw logits, before any of this.
//
// Top-k and top-p go by descending logit (ties: lower id first); top-p keeps the token that
// reaches the mass, min-p what has at least min_p times the highest probability. A logit that
// bias or penalties turn into NaN counts as -inf, +inf as the largest float.
//
// Randomness: u = hash(seed, position, purpose) -> [0,1), kernels/sample_rng.h. The draw
// inverts the cumulative distribution of the survivors in ascending token id: no sort of the
// vocabulary, and one seed gives one text whatever the batch, chunking or preemption.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "base/types.h"
#include "kernels/matrix.h"

namespace skim {

struct TokenCount {
  TokenId token;
  int32_t in_prompt;  // occurrences in the prompt
  int32_t in_output;  // occurrences among generated tokens
};

struct LogitBias {
  TokenId token;
  float bias;
};

struct SampleRow {
  float temperature = 0;  // 0 = greedy
  int32_t top_k = 0;      // 0 = off
  float top_p = 1;
  float min_p = 0;
  float repetition_penalty = 1;
  float frequency_penalty = 0;
  float presence_penalty = 0;
  std::span<const TokenCount> counts;  // each token once; empty when no penalty is set
  std::span<const LogitBias> bias;     // each token once
  std::span<const TokenId> banned;     // probability 0 (stop tokens before min_tokens)
  uint64_t seed = 0;
  uint32_t position = 0;      // of the token being drawn
  int32_t top_logprobs = -1;  // -1: no log-probabilities; 0: the chosen one only
  TokenId score = kNoToken;   // >= 0: do not draw, report this token's log-probability
};

// What the columns of logits stand for, where those are not the tokens of their own numbers.
struct ColumnTokens {
  const TokenId* shared = nullptr;  // device memory, [shared_count]: of the first columns
  int64_t shared_count = 0;
  const TokenId* own = nullptr;  // device memory, [rows, columns - shared_count]: of the others

  constexpr TokenId Of(int64_t row, TokenId column, int64_t columns) const {
    if (shared == nullptr || column < 0) return column;
    if (column < shared_count) return shared[column];
    return own[row * (columns - shared_count) + column - shared_count];
  }
};

// What Ops::Sample reads, and what it writes beside the results.
struct SampleArgs {
  Matrix<const float> logits;
  std::span<const SampleRow> rows;  // host memory, which is read within the call
  ColumnTokens columns = {};        // tokens of `rows` are columns, those of the results are not
  // Device memory, optional out [rows]: the tokens, for calls before the next Wait().
  TokenId* drawn = nullptr;
};

struct TokenLogprob {
  TokenId token;
  float logprob;
};

struct SampledToken {
  TokenId token = kNoToken;       // drawn (or `score`); kNoToken if no token can be drawn
  float logprob = 0;              // if top_logprobs >= 0
  std::vector<TokenLogprob> top;  // best first, ties: lower id first
  bool finite = true;             // false: a NaN or +inf logit, or every token at -inf
};

}  // namespace skim
