#include "engine/sample_rows.h"

#include <type_traits>

namespace skim {
namespace {

// Those of `all` that the subset has, by column.
template <typename T>
std::span<const T> Columns(std::span<const T> all, const TokenSubset& subset,
                           std::deque<std::vector<T>>* kept) {
  std::vector<T>& columns = kept->emplace_back();
  for (T entry : all) {
    TokenId* token = nullptr;
    if constexpr (std::is_same_v<T, TokenId>) {
      token = &entry;
    } else {
      token = &entry.token;
    }
    *token = subset.ColumnOf(*token);
    if (*token != kNoToken) columns.push_back(entry);
  }
  return columns;
}

}  // namespace

void SampleRows::Clear() {
  rows_.clear();
  counts_.clear();
  bias_.clear();
  banned_.clear();
}

std::span<const TokenCount> SampleRows::Count(const PlanSequence& sequence, int32_t length) {
  std::vector<TokenCount>& counts = counts_.emplace_back();
  for (int32_t i = 0; i < length; ++i) {
    const TokenId token = sequence.TokenAt(i);
    int32_t& slot = slot_of_token_[token];
    if (slot < 0) {
      slot = static_cast<int32_t>(counts.size());
      counts.push_back({token, 0, 0});
    }
    ++(i < sequence.prompt_tokens ? counts[slot].in_prompt : counts[slot].in_output);
  }
  for (const TokenCount& count : counts) slot_of_token_[count.token] = -1;
  return counts;
}

void SampleRows::AddDraw(const PlanSequence& sequence, int32_t position) {
  const SamplingParams& params = *sequence.sampling;
  SampleRow row;
  row.temperature = params.temperature;
  row.top_k = params.top_k;
  row.top_p = params.top_p;
  row.min_p = params.min_p;
  row.repetition_penalty = params.repetition_penalty;
  row.frequency_penalty = params.frequency_penalty;
  row.presence_penalty = params.presence_penalty;
  row.bias = params.bias;
  if (params.HasPenalties()) row.counts = Count(sequence, position);
  const int32_t generated = position - sequence.prompt_tokens;
  if (generated < params.min_tokens) row.banned = params.stop_tokens;
  if (static_cast<size_t>(generated) < params.forced.size()) row.score = params.forced[generated];
  row.seed = params.seed;
  row.position = static_cast<uint32_t>(position);
  row.top_logprobs = params.top_logprobs;
  rows_.push_back(row);
}

void SampleRows::AddDraw(const PlanSequence& sequence, int32_t position,
                         const TokenSubset& subset) {
  AddDraw(sequence, position);
  SampleRow& row = rows_.back();
  row.counts = Columns(row.counts, subset, &counts_);
  row.bias = Columns(row.bias, subset, &bias_);
  row.banned = Columns(row.banned, subset, &banned_);
  if (row.score != kNoToken) row.score = subset.ColumnOf(row.score);
}

void SampleRows::AddScore(const PlanSequence& sequence, int32_t position) {
  SampleRow row;
  row.position = static_cast<uint32_t>(position);
  row.top_logprobs = sequence.sampling->top_logprobs;
  row.score = sequence.tokens[position];
  rows_.push_back(row);
}

}  // namespace skim
