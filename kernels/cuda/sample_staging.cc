#include "kernels/cuda/sample_staging.h"

#include <algorithm>
#include <cstring>

#include "kernels/sample_rng.h"

namespace skim::cuda {

SampleStaging::SampleStaging(std::span<const SampleRow> rows, int64_t vocabulary) : rows_(rows) {
  list_bytes_ = rows.size() * sizeof(SampleTask);
  for (const SampleRow& row : rows) {
    list_bytes_ += row.counts.size_bytes() + row.bias.size_bytes() + row.banned.size_bytes();
    adjusts_ |= !row.counts.empty() || !row.bias.empty() || !row.banned.empty();
    max_top_ = std::max<int32_t>(
        max_top_, static_cast<int32_t>(std::min<int64_t>(row.top_logprobs, vocabulary)));
  }
}

size_t SampleStaging::result_bytes() const {
  return rows_.size() *
         (sizeof(SampleOutcome) + static_cast<size_t>(max_top_) * sizeof(TokenLogprob));
}

void SampleStaging::Write(std::byte* host, const std::byte* device) const {
  size_t at = rows_.size() * sizeof(SampleTask);
  const auto append = [&]<typename T>(std::span<const T> list) {
    static_assert(alignof(T) == 4 && sizeof(SampleTask) % 8 == 0);
    if (!list.empty()) std::memcpy(host + at, list.data(), list.size_bytes());
    const auto* place = reinterpret_cast<const T*>(device + at);
    at += list.size_bytes();
    return place;
  };
  for (size_t r = 0; r < rows_.size(); ++r) {
    const SampleRow& row = rows_[r];
    const SampleTask task = {
        .temperature = row.temperature,
        .top_p = row.top_p,
        .min_p = row.min_p,
        .repetition_penalty = row.repetition_penalty,
        .frequency_penalty = row.frequency_penalty,
        .presence_penalty = row.presence_penalty,
        .top_k = row.top_k,
        .top_logprobs = row.top_logprobs,
        .score = row.score,
        .draw = UniformDraw(row.seed, row.position, DrawPurpose::kToken),
        .counts = append(row.counts),
        .bias = append(row.bias),
        .banned = append(row.banned),
        .count_count = static_cast<int32_t>(row.counts.size()),
        .bias_count = static_cast<int32_t>(row.bias.size()),
        .banned_count = static_cast<int32_t>(row.banned.size()),
    };
    std::memcpy(host + r * sizeof(SampleTask), &task, sizeof(task));
  }
}

}  // namespace skim::cuda
