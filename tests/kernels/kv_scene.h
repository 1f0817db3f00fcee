// Sequences in a paged K/V pool full of NaN, for tests of attention: pages in random order,
// an own writer (so that layout and codes have a second opinion), and a double-precision
// reference.
#pragma once

#include <cstdint>
#include <random>
#include <vector>

#include "kernels/cpu/isa.h"
#include "kernels/ops.h"

namespace skim {

struct KvShape {
  int heads = 1;
  int kv_heads = 1;
  int head_dim = 64;
  int page_tokens = 32;
  KvFormat format = KvFormat::kBf16;
};

// A vector as a page stores it: the nearest code, looked up, not computed.
struct StoredVector {
  std::vector<Bf16> numbers;   // bf16
  std::vector<uint8_t> codes;  // other formats, with a scale
  float scale = 0;

  static StoredVector Of(KvFormat format, const float* x, int count);
  double operator[](int d) const;  // what the stored number means, exactly

 private:
  KvFormat format_ = KvFormat::kBf16;
};
// What code & 127 means before the scale; NaN for what no writer may store.
double CodeMagnitude(KvFormat format, int code);
// The furthest that x may be from what is stored for it, where `max` is the largest of its
// vector.
double StorageError(KvFormat format, double x, double max);

// K, V and queries of a sequence by slot; slot i holds position positions[i].
struct KvSequence {
  std::vector<int32_t> positions;
  std::vector<std::vector<Bf16>> keys, values;  // [slot][kv_heads * head_dim]
  std::vector<std::vector<StoredVector>> stored_keys, stored_values;  // [slot][kv_heads]
  std::vector<std::vector<Bf16>> queries;       // [position][heads * head_dim]
  bool by_index = true;                         // slot i holds position i
};

KvSequence RandomSequence(uint32_t seed, const KvShape& shape, int tokens);
// The same, but of numbers that the format holds exactly: what is stored depends on no rounding.
KvSequence ExactSequence(uint32_t seed, const KvShape& shape, int tokens);
// The same tokens in shuffled slots.
KvSequence Shuffled(const KvSequence& sequence, uint32_t seed);

// Rows of one sequence to run: positions, ascending, when its first `slots` slots are in use.
struct KvWork {
  const KvSequence* sequence;
  std::vector<int32_t> positions;
  int slots;
};

struct AttentionResult {
  std::vector<Bf16> out;   // [heads * head_dim]
  std::vector<float> lse;  // [heads]
};

// Runs one step and returns a result per row, work after work. Only the slots in use are
// written; all else is NaN in bf16, or wild codes with NaN for scales.
std::vector<AttentionResult> RunAttention(Isa isa, int threads, const KvShape& shape,
                                          const std::vector<KvWork>& work, uint32_t page_seed = 1);

// A work item whose last `window` rows score its keys.
struct KvScoring {
  int32_t work;
  int32_t window;
};
// Per scoring [arrays][slots], after the attention of all the work. `scored_heads` as in
// KeyScoresArgs.
std::vector<std::vector<float>> RunKeyScores(Isa isa, int threads, const KvShape& shape,
                                             const std::vector<KvWork>& work,
                                             const std::vector<KvScoring>& scorings,
                                             const std::vector<int32_t>& scored_heads,
                                             uint32_t page_seed = 1);

struct AttentionReference {
  std::vector<double> out, magnitude;  // magnitude: sum of p |v|, what errors scale with
  std::vector<double> lse;
  // [heads][slots] softmax probabilities.
  std::vector<std::vector<double>> probabilities;
};
// On K and V as stored.
AttentionReference ReferenceAttention(const KvShape& shape, const KvWork& work, int row);
// Mean probability over the last `window` rows and the given heads, [slots].
std::vector<double> ReferenceKeyScores(const KvShape& shape, const KvWork& work, int window,
                                       const std::vector<int32_t>& heads);
// On K and V before they were stored, with how far `out` may be from it: [heads * head_dim].
AttentionReference ExactAttention(const KvShape& shape, const KvWork& work, int row,
                                  std::vector<double>* bound);

}  // namespace skim
