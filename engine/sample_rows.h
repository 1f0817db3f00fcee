// Turns a sequence's SamplingParams and history into the rows the sampling op takes.
#pragma once

#include <cstdint>
#include <deque>
#include <vector>

#include "engine/step_plan.h"
#include "engine/token_subset.h"
#include "kernels/sampling.h"

namespace skim {

class SampleRows {
 public:
  explicit SampleRows(int32_t vocab_size) : slot_of_token_(vocab_size, -1) {}

  void Clear();
  // A draw of the token at `position`, after all known or drafted tokens before it.
  void AddDraw(const PlanSequence& sequence, int32_t position);
  // The same from logits of a subset: tokens are its columns, also in what is drawn.
  void AddDraw(const PlanSequence& sequence, int32_t position, const TokenSubset& subset);
  // The log-probability of the known token at `position`.
  void AddScore(const PlanSequence& sequence, int32_t position);

  std::span<const SampleRow> rows() const { return rows_; }

 private:
  std::span<const TokenCount> Count(const PlanSequence& sequence, int32_t length);

  std::vector<SampleRow> rows_;
  // Behind the rows' spans:
  std::deque<std::vector<TokenCount>> counts_;
  std::deque<std::vector<LogitBias>> bias_;
  std::deque<std::vector<TokenId>> banned_;
  std::vector<int32_t> slot_of_token_;          // scratch of Count, -1 between calls
};

}  // namespace skim
